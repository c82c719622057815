package gateway

import (
	"sync"
	"sync/atomic"
)

// metrics are the gateway's counters. The hot path adds to atomics; telemetry
// reads them when it is asked (observe.go).
type metrics struct {
	accepted, refused        atomic.Int64
	framesIn, errors         atomic.Int64
	oversized, limited       atomic.Int64
	unauthenticated          atomic.Int64
	published, publishErrors atomic.Int64
	messages, deliveries     atomic.Int64
	malformed, slowConsumers atomic.Int64
	calls, requests          atomic.Int64
	repairs, truncations     atomic.Int64
	ringHits, histories      atomic.Int64
	replayed, unrecovered    atomic.Int64
	stored, duplicates       atomic.Int64
	ledgerLookups            atomic.Int64
	ledgerHits               atomic.Int64
	ledgerRefusals           atomic.Int64
	lateReplies, badReplies  atomic.Int64
	presenceFrames           atomic.Int64
	presenceRefusals         atomic.Int64
	presenceLoads            atomic.Int64
	presenceRepairs          atomic.Int64
	cursorMoves              atomic.Int64
	cursorFrames             atomic.Int64
	cursorMessages           atomic.Int64
	cursorRefusals           atomic.Int64
	matchRefusals            atomic.Int64
	controls                 atomic.Int64
	controlRefusals          atomic.Int64
	revoked                  atomic.Int64

	mu     sync.Mutex
	closes map[int]int64 // by close code; guarded by mu
}

// closeCodes are the codes that are counted by themselves; a peer can send any
// other, and those are counted together.
var closeCodes = map[int]bool{
	1000: true, 1001: true, 1002: true, 1005: true, 1006: true, 1008: true, 1009: true, 1011: true, 1013: true,
	4400: true, 4401: true, 4403: true, 4408: true, 4429: true,
}

func (m *metrics) closed(code int) {
	if !closeCodes[code] {
		code = 0
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.closes == nil {
		m.closes = map[int]int64{}
	}
	m.closes[code]++
}

func (m *metrics) closesByCode() map[int]int64 {
	m.mu.Lock()
	defer m.mu.Unlock()
	out := make(map[int]int64, len(m.closes))
	for code, n := range m.closes {
		out[code] = n
	}
	return out
}

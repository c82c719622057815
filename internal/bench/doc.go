// Package bench generates load for a WebSocket gateway and measures it: the
// engine behind `fairlead bench`.
//
//	scenario (fanout, publish, connect, idle)
//	   │ opens a fleet of connections, hands each its work
//	   ▼
//	loop × cores ── conn × n      one goroutine owns many connections
//	   │ histogram, counters      (epoll on Linux, goroutines elsewhere)
//	   ▼
//	Report: rates, quantiles, the server's CPU and memory, what the generator itself cost
//
// # Cheap on purpose
//
// A generator that costs as much as the server measures itself. So it has its
// own WebSocket codec on bare sockets, and it does not parse JSON: it counts
// the occurrences of its payload's first bytes and reads two numbers of fixed
// width behind each. That relies on two things, both true of Fairlead and of
// Centrifugo's JSON protocol: a payload is passed through byte for byte, and
// nothing else in a frame looks like its beginning. Client frames are masked
// with the key zero, which RFC 6455 servers accept and have to apply all the
// same. A message is late from its scheduled time on at a fixed rate (no
// coordinated omission), from its sending in a closed loop.
//
// # Honest about itself
//
// Each message carries its number on its topic: loss, repetition and disorder
// are counted. The report names the generator's CPU, how busy its loops were
// and how far a fixed rate lagged behind its schedule, and warns when they,
// rather than the server, decided the figures.
package bench

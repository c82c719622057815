package bench

import (
	"encoding/binary"
	"errors"
	"fmt"
)

// Opcodes of RFC 6455 §5.2.
const (
	opContinuation = 0
	opText         = 1
	opClose        = 8
	opPing         = 9
	opPong         = 10
)

const maxFrame = 64 << 20 // bytes; a server that sends more is broken

var errFrame = errors.New("the server sent a malformed WebSocket frame")

// appendFrame appends a client frame. Its mask is the key zero, so masking
// changes nothing and costs nothing here; the server's work is the same.
func appendFrame(dst []byte, opcode byte, payload []byte) []byte {
	dst = append(dst, 0x80|opcode)
	switch n := len(payload); {
	case n < 126:
		dst = append(dst, 0x80|byte(n))
	case n < 1<<16:
		dst = binary.BigEndian.AppendUint16(append(dst, 0x80|126), uint16(n))
	default:
		dst = binary.BigEndian.AppendUint64(append(dst, 0x80|127), uint64(n))
	}
	dst = append(dst, 0, 0, 0, 0)
	return append(dst, payload...)
}

// nextFrame splits the first server frame off b. size is 0 while b holds only
// a part of it.
func nextFrame(b []byte) (fin bool, opcode byte, payload []byte, size int, err error) {
	if len(b) < 2 {
		return
	}
	fin, opcode = b[0]&0x80 != 0, b[0]&0x0f
	if b[0]&0x70 != 0 || b[1]&0x80 != 0 { // extensions were not agreed on, servers don't mask
		return false, 0, nil, 0, errFrame
	}
	n, head := uint64(b[1]&0x7f), 2
	switch n {
	case 126:
		if len(b) < 4 {
			return
		}
		n, head = uint64(binary.BigEndian.Uint16(b[2:])), 4
	case 127:
		if len(b) < 10 {
			return
		}
		n, head = binary.BigEndian.Uint64(b[2:]), 10
	}
	if n > maxFrame {
		return false, 0, nil, 0, fmt.Errorf("%w: %d bytes", errFrame, n)
	}
	if uint64(len(b)-head) < n {
		return
	}
	size = head + int(n)
	return fin, opcode, b[head:size], size, nil
}

// closeStatus reads the payload of a close frame.
func closeStatus(payload []byte) (code int, reason string) {
	if len(payload) < 2 {
		return 1005, ""
	}
	return int(binary.BigEndian.Uint16(payload)), string(payload[2:])
}

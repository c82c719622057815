package gateway

import (
	"encoding/base64"
	"net/http"
	"slices"
	"strings"
)

const (
	webSocketVersion = "13"
	webSocketKey     = 16 // bytes
)

// webSocket returns 0 for a WebSocket handshake, else the status and the text by
// which a request is refused: one that can't be upgraded has no place and takes
// nothing of a limit. A page may have its visitors send such ones.
func webSocket(r *http.Request) (status int, text string) {
	keys, versions := r.Header.Values("Sec-WebSocket-Key"), r.Header.Values("Sec-WebSocket-Version")
	switch {
	case !r.ProtoAtLeast(1, 1), !listed(r.Header.Values("Connection"), "upgrade"), !listed(r.Header.Values("Upgrade"), "websocket"):
		return http.StatusUpgradeRequired, "a WebSocket handshake is required"
	case r.Method != http.MethodGet:
		return http.StatusMethodNotAllowed, "a WebSocket handshake is a GET"
	case !slices.Equal(versions, []string{webSocketVersion}):
		return http.StatusBadRequest, "Sec-WebSocket-Version: " + webSocketVersion + " is required"
	case len(keys) != 1:
		return http.StatusBadRequest, "one Sec-WebSocket-Key is required"
	}
	if key, err := base64.StdEncoding.DecodeString(strings.TrimSpace(keys[0])); err != nil || len(key) != webSocketKey {
		return http.StatusBadRequest, "Sec-WebSocket-Key: 16 bytes in base64"
	}
	return 0, ""
}

// listed reports whether a token is in a header that lists them, in any case.
func listed(lines []string, token string) bool {
	for _, line := range lines {
		for word := range strings.SplitSeq(line, ",") {
			if strings.EqualFold(strings.TrimSpace(word), token) {
				return true
			}
		}
	}
	return false
}

package session

import (
	"bufio"
	"context"
	"io"
	"net"
	"net/http"
	"sync/atomic"
)

type contextKey struct{}

// Middleware gives every request that next serves a [Session], which [From]
// returns. It asks the service nothing.
func (s *Sessions) Middleware(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		rw := &response{ResponseWriter: w}
		defer rw.sent.Store(true) // a cookie that is set later reaches nobody
		one := &Session{sessions: s, response: rw, token: s.token(r)}
		next.ServeHTTP(rw, r.WithContext(context.WithValue(r.Context(), contextKey{}, one)))
	})
}

// response notes when it is too late for a cookie.
type response struct {
	http.ResponseWriter
	sent atomic.Bool // the headers
}

func (w *response) WriteHeader(status int) {
	if status >= 200 || status == http.StatusSwitchingProtocols {
		w.sent.Store(true)
	}
	w.ResponseWriter.WriteHeader(status)
}

func (w *response) Write(b []byte) (int, error) {
	w.sent.Store(true)
	return w.ResponseWriter.Write(b)
}

// ReadFrom leaves copying to what is below, which may do it without a buffer.
func (w *response) ReadFrom(r io.Reader) (int64, error) {
	w.sent.Store(true)
	return io.Copy(w.ResponseWriter, r)
}

// Unwrap lets http.ResponseController reach what is below.
func (w *response) Unwrap() http.ResponseWriter { return w.ResponseWriter }

// FlushError is what http.ResponseController calls.
func (w *response) FlushError() error {
	w.sent.Store(true)
	return http.NewResponseController(w.ResponseWriter).Flush()
}

// Flush implements http.Flusher, which older handlers ask for.
func (w *response) Flush() { _ = w.FlushError() }

// Hijack implements http.Hijacker, which older handlers ask for.
func (w *response) Hijack() (net.Conn, *bufio.ReadWriter, error) {
	conn, rw, err := http.NewResponseController(w.ResponseWriter).Hijack()
	if err == nil {
		w.sent.Store(true)
	}
	return conn, rw, err
}

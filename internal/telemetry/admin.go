package telemetry

import (
	"log/slog"
	"net"
	"net/http"
	"net/http/pprof"
	"net/netip"
	"runtime"
	"strings"
	"time"
)

// Admin is what the admin address serves: /metrics, /healthz, /readyz,
// /version, and /debug/pprof/ for peers on the same machine.
func Admin(t *Telemetry, checks *Checks) http.Handler {
	if err := checks.export(t.MeterProvider.Meter("github.com/fairlead-io/fairlead/internal/telemetry")); err != nil {
		t.Log.Error("readiness not measured", "err", err) // all else works
	}
	mux := http.NewServeMux()
	mux.Handle("GET /metrics", t.metrics)
	mux.HandleFunc("GET /healthz", Healthz)
	mux.Handle("GET /readyz", checks)
	mux.HandleFunc("GET /version", func(w http.ResponseWriter, _ *http.Request) {
		writeJSON(w, http.StatusOK, struct {
			Name    string `json:"name"`
			Version string `json:"version"`
			Go      string `json:"go"`
		}{t.service, t.version, runtime.Version()})
	})
	profiles := http.NewServeMux()
	profiles.HandleFunc("/debug/pprof/", pprof.Index)
	profiles.HandleFunc("/debug/pprof/cmdline", pprof.Cmdline)
	profiles.HandleFunc("/debug/pprof/profile", pprof.Profile)
	profiles.HandleFunc("/debug/pprof/symbol", pprof.Symbol)
	profiles.HandleFunc("/debug/pprof/trace", pprof.Trace)
	mux.Handle("/debug/pprof/", loopbackOnly(profiles))
	return mux
}

// loopbackOnly lets through peers on the same machine that also call the
// machine by a local name: a web page that has rebound its own name to
// 127.0.0.1 does not, and what a local proxy forwards comes from elsewhere.
func loopbackOnly(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		forwarded := r.Header.Get("X-Forwarded-For") != "" || r.Header.Get("Forwarded") != ""
		if forwarded || !loopback(r.RemoteAddr) || !loopback(r.Host) {
			http.Error(w, "profiles are for this machine only", http.StatusForbidden)
			return
		}
		next.ServeHTTP(w, r)
	})
}

// loopback reports whether host, or host:port, is this machine's own.
func loopback(hostport string) bool {
	host, _, err := net.SplitHostPort(hostport)
	if err != nil {
		host = strings.Trim(hostport, "[]")
	}
	if strings.EqualFold(host, "localhost") {
		return true
	}
	addr, err := netip.ParseAddr(host)
	return err == nil && addr.Unmap().IsLoopback()
}

// Limits of every HTTP server of ours. There is no write timeout: it would end
// profiles and WebSockets, whose writes have deadlines of their own.
const (
	headerTimeout = 5 * time.Second
	readTimeout   = 15 * time.Second // headers and body together
	idleTimeout   = 60 * time.Second
	headerBytes   = 16 << 10 // request line and headers together
)

// Server returns a server with our limits: 5s for the headers, 15s for a
// request with its body, 60s for an idle connection, 16 KiB of headers (more is
// answered 431). An upgraded connection is not bound by them. What goes wrong
// with single connections is logged at debug level.
func Server(addr string, handler http.Handler, log *slog.Logger) *http.Server {
	return &http.Server{
		Addr:              addr,
		Handler:           handler,
		ReadHeaderTimeout: headerTimeout,
		ReadTimeout:       readTimeout,
		IdleTimeout:       idleTimeout,
		MaxHeaderBytes:    headerBytes - 4096, // net/http allows 4096 more than it is told
		ErrorLog:          slog.NewLogLogger(log.Handler(), slog.LevelDebug),
	}
}

// Package session keeps what an HTTP server remembers of its visitors in
// Fairlead: any server may answer any request, and servers may be restarted.
//
//	sessions, err := session.New(nc, session.Options{})
//	http.Handle("/", sessions.Middleware(app))
//
// and in a handler:
//
//	visit, ok, err := session.Get[Visit](r.Context())     // ok is false for a visitor without a session
//	err = session.From(r.Context()).Set(r.Context(), visit)
//
// A session holds one JSON value of the application's. It is read when a handler
// first asks for it, and written when [Session.Set] changes it, before Set
// returns: an error says that the service is away or refused it, and the handler
// decides what becomes of the request. A visitor for whom nothing is set has no
// session and no cookie. The cookie holds 128 random bits and nothing else.
//
// After a login call [Session.Renew]: it gives the session another token, so that
// one that was planted in the visitor's browser before is worth nothing.
package session

package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"time"
	"unicode"
	"unicode/utf8"

	"github.com/fairlead-io/fairlead/clients/js"
	"github.com/fairlead-io/fairlead/cmd/fairlead/demo"
	"github.com/fairlead-io/fairlead/pkg/wire"
	"github.com/fairlead-io/fairlead/services/gateway/auth"
)

// devTokenLife is how long the token that dev prints, and those of the demo
// page, are valid.
const devTokenLife = 24 * time.Hour

// mountDemo serves the demo page, the client that it uses, and tokens for its
// users.
func mountDemo(mux *http.ServeMux, secret []byte, cfg *config, stack *demo.Stack) {
	mux.Handle("GET /fairlead.js", js.Handler())
	mux.Handle("GET /fairlead/", js.Handler())
	mux.Handle("GET /demo", demo.Handler(stack))
	mux.Handle("GET /demo/", demo.Handler(stack))
	mux.HandleFunc("GET /demo/token", func(w http.ResponseWriter, r *http.Request) {
		user := r.URL.Query().Get("user")
		if err := wire.CheckUser(user); err != nil {
			http.Error(w, err.Error(), http.StatusBadRequest)
			return
		}
		token, err := mint(secret, cfg, user)
		if err != nil {
			http.Error(w, "no tokens here: "+err.Error(), http.StatusNotFound)
			return
		}
		w.Header().Set("Content-Type", "text/plain; charset=utf-8")
		w.Header().Set("Cache-Control", "no-store")
		fmt.Fprint(w, token)
	})
}

func mint(secret []byte, cfg *config, user string) (string, error) {
	if secret == nil {
		return "", errors.New("they are handed out by fairlead dev and fairlead demo only, where they have the secret that signs them")
	}
	now := time.Now()
	life := min(devTokenLife, cfg.Gateway.Auth.MaxAge)
	first, size := utf8.DecodeRuneInString(user)
	info, err := json.Marshal(map[string]string{"name": string(unicode.ToUpper(first)) + user[size:]})
	if err != nil {
		return "", fmt.Errorf("mint token: %w", err)
	}
	return auth.Mint(secret, auth.Claims{User: user, Issuer: cfg.Gateway.Auth.Issuer, Audience: cfg.Gateway.Auth.Audience,
		IssuedAt: now, ExpiresAt: now.Add(life), Info: info})
}

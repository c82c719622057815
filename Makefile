.DEFAULT_GOAL := help
.PHONY: help dev test race lint fuzz bench browser ci

help: ## list the targets
	@sed -n 's/^\([a-z]*\):.*## /\1	/p' $(MAKEFILE_LIST) | expand -t 10

dev: ## everything on this machine: NATS, gateway, demo page
	go run ./cmd/fairlead dev

test: ## all Go tests; needs nothing but Go
	go test ./...

race: ## the same under the race detector
	go test -race ./...

lint: ## gofmt, vet, staticcheck
	@test -z "$$(gofmt -l $$(git ls-files '*.go'))" || { gofmt -l $$(git ls-files '*.go'); exit 1; }
	go vet ./...
	go run honnef.co/go/tools/cmd/staticcheck@v0.7.0 ./...

fuzz: ## 30 s of each fuzz target
	.ci/fuzz 30s

bench: ## micro-benchmarks of the hot paths
	go test -run '^$$' -bench . -benchmem ./pkg/wire ./services/gateway/... ./internal/rules

browser: ## the demo page in a real Chromium
	go test -tags browser -run Browser ./integration/...

ci: ## what CI runs
	.ci/run

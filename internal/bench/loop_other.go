//go:build !linux

package bench

func newLoop(config loopConfig, _ bool) (loop, error) { return newNetLoop(config) }

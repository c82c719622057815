package tasks

import (
	"fmt"
	"time"

	"github.com/fairlead-io/fairlead/pkg/wire"
	"github.com/fairlead-io/fairlead/services/tasks/store"
)

// What counts of a name where nothing is said of it.
const (
	defaultTimeout    = time.Minute
	defaultBackoff    = time.Second
	defaultFactor     = 2
	defaultMaxBackoff = time.Minute
	defaultJitter     = 0.1
	defaultMaxCrashes = 3

	maxAttempts    = 10_000
	maxBackoff     = 30 * 24 * time.Hour
	maxFactor      = 100
	maxCrashes     = 10_000
	maxConcurrency = 100_000
	maxFinal       = 32 // codes after which none follows
)

// checkRegister turns what is said of a name into a policy with every default
// filled in. A retention of 0 is the service's.
func checkRegister(req *wire.TaskRegister) (p store.Policy, err error) {
	if err := wire.CheckTaskName("name", req.Name); err != nil {
		return p, err
	}
	p = store.Policy{
		Name: req.Name, MaxAttempts: 1, Factor: defaultFactor, Jitter: defaultJitter,
		MaxCrashes: defaultMaxCrashes, Concurrency: req.Concurrency,
	}
	if p.Timeout, err = checkDuration("timeout", req.Timeout, defaultTimeout, minTimeout, maxTimeout); err != nil {
		return p, err
	}
	if req.MaxCrashes != nil {
		p.MaxCrashes = *req.MaxCrashes
	}
	if p.MaxCrashes < 0 || p.MaxCrashes > maxCrashes {
		return p, wire.InvalidField("maxCrashes", fmt.Sprintf("from 0 to %d", maxCrashes))
	}
	if p.Concurrency < 0 || p.Concurrency > maxConcurrency {
		return p, wire.InvalidField("concurrency", fmt.Sprintf("from 0 (no bound) to %d", maxConcurrency))
	}
	if p.Retention, err = checkDuration("retention", req.Retention, 0, minRetention, maxRetention); err != nil {
		return p, err
	}
	if req.Retry == nil {
		req.Retry = &wire.TaskRetry{}
	}
	return p, checkRetry(req.Retry, &p)
}

func checkRetry(req *wire.TaskRetry, p *store.Policy) (err error) {
	if req.MaxAttempts < 0 || req.MaxAttempts > maxAttempts {
		return wire.InvalidField("retry.maxAttempts", fmt.Sprintf("from 1 to %d", maxAttempts))
	}
	p.MaxAttempts = max(req.MaxAttempts, 1)
	if p.Backoff, err = checkDuration("retry.backoff", req.Backoff, defaultBackoff, 0, maxBackoff); err != nil {
		return err
	}
	if p.MaxBackoff, err = checkDuration("retry.maxBackoff", req.MaxBackoff, max(defaultMaxBackoff, p.Backoff), 0, maxBackoff); err != nil {
		return err
	}
	if p.MaxBackoff < p.Backoff {
		return wire.InvalidField("retry.maxBackoff", "not below the backoff")
	}
	if req.Factor != 0 {
		p.Factor = req.Factor
	}
	if !(p.Factor >= 1 && p.Factor <= maxFactor) {
		return wire.InvalidField("retry.factor", fmt.Sprintf("from 1 to %d", maxFactor))
	}
	if req.Jitter != nil {
		p.Jitter = *req.Jitter
	}
	if !(p.Jitter >= 0 && p.Jitter <= 1) {
		return wire.InvalidField("retry.jitter", "from 0 to 1")
	}
	if len(req.NonRetryable) > maxFinal {
		return wire.InvalidField("retry.nonRetryable", fmt.Sprintf("at most %d codes", maxFinal))
	}
	for _, code := range req.NonRetryable {
		if !code.Known() {
			return wire.InvalidField("retry.nonRetryable", "codes of the protocol, such as NOT_FOUND")
		}
	}
	p.Final = req.NonRetryable
	return nil
}

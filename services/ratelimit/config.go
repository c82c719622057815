package ratelimit

import (
	"errors"
	"fmt"

	"github.com/fairlead-io/fairlead/pkg/wire"
)

// Config is how a replica is set up. It has no variables of its own: Namespace
// and Replicas are shared by all services of a process, so cmd sets them.
type Config struct {
	Namespace wire.Namespace
	Replicas  int // of the bucket
}

func (c *Config) validate() error {
	var errs []error
	if err := wire.CheckNamespace(string(c.Namespace)); err != nil {
		errs = append(errs, fmt.Errorf("FAIRLEAD_NAMESPACE=%s: %w", c.Namespace, err))
	}
	return errors.Join(errs...)
}

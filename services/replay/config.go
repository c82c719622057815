package replay

import (
	"errors"
	"fmt"

	"github.com/fairlead-io/fairlead/pkg/wire"
	"github.com/fairlead-io/fairlead/services/replay/archive"
)

// Config is how a replica is set up. The tags name the environment variables,
// without their prefix FAIRLEAD_, and say what docs/configuration.md says.
type Config struct {
	// IndexBytes bounds the index of each stream.
	IndexBytes int64 `env:"REPLAY_INDEX_BYTES, default=268435456" help:"memory for the index of each stream; above it old messages of a topic are found by a slow scan of the stream"`

	// Namespace and Replicas are shared by all services of a process, so cmd
	// sets them. Replicas counts for streams whose rule names none.
	Namespace wire.Namespace
	Replicas  int
	// PostgresURL is where rules with `archive` keep their copy; "" for none.
	PostgresURL string
}

func (c *Config) validate() error {
	var errs []error
	if c.IndexBytes < 1<<20 {
		errs = append(errs, fmt.Errorf("FAIRLEAD_REPLAY_INDEX_BYTES=%d: at least 1048576", c.IndexBytes))
	}
	if err := wire.CheckNamespace(string(c.Namespace)); err != nil {
		errs = append(errs, fmt.Errorf("FAIRLEAD_NAMESPACE=%s: %w", c.Namespace, err))
	}
	if c.PostgresURL != "" {
		if err := archive.CheckURL(c.PostgresURL); err != nil {
			errs = append(errs, fmt.Errorf("FAIRLEAD_POSTGRES_URL: %w", err)) // a secret: its value is not repeated
		}
	}
	return errors.Join(errs...)
}

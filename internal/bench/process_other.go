//go:build !linux

package bench

import (
	"errors"
	"time"
)

func processUsage(int) (cpu time.Duration, rss int64, err error) { return 0, 0, errors.ErrUnsupported }

func familyUsage(int) (time.Duration, error) { return 0, errors.ErrUnsupported }

func listener(string) int { return 0 }

func machineBusy() (busy, all time.Duration) { return 0, 0 }

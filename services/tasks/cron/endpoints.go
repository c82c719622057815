package cron

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/fairlead-io/fairlead/internal/bus"
	"github.com/fairlead-io/fairlead/pkg/wire"
)

const (
	maxPriority            = 100
	minTimeout, maxTimeout = 10 * time.Millisecond, 7 * 24 * time.Hour
	maxPage                = 1000
	// pageBytes is about how large a page of schedules is at most.
	pageBytes = 512 << 10
	// maxInput bounds the input of a schedule's tasks: a page has to hold it.
	maxInput = 256 << 10
)

// Endpoints are what the schedules answer; at gives the subject of a name.
func (s *Service) Endpoints(at func(name string) string) []bus.Endpoint {
	list := bus.Handle("cron.list", at("cron.list"), s.List)
	list.Workers, list.Timeout = 16, scanWait
	return []bus.Endpoint{
		bus.Handle("cron.set", at("cron.set"), s.Set),
		list,
		bus.Handle("cron.delete", at("cron.delete"), s.Delete),
	}
}

// Set makes a schedule, or changes the one of that name. One whose spec and time
// zone stay the same goes on with its ticks.
func (s *Service) Set(ctx context.Context, req wire.TaskCron) (wire.TaskCronState, error) {
	want, p, err := check(&req)
	if err != nil {
		return wire.TaskCronState{}, err
	}
	var set Schedule
	full := false
	err = s.cfg.Ask(ctx, askWait, func(ctx context.Context) (err error) {
		set, err = s.cfg.Store.Set(ctx, want, wire.MaxCrons, p.next)
		if errors.Is(err, ErrFull) { // an answer, no failure of the store
			full, err = true, nil
		}
		return err
	})
	if err != nil {
		return wire.TaskCronState{}, err
	}
	if full {
		s.metrics.refused.Add(1)
		return wire.TaskCronState{}, &wire.Error{
			Code: wire.ResourceExhausted, RetryAfter: wire.Never, Message: fmt.Sprintf("there are %d schedules, as many as there may be", wire.MaxCrons),
		}
	}
	select {
	case s.wake <- struct{}{}: // it may be due sooner than what is waited for
	default:
	}
	return state(&set), nil
}

// List returns a page of schedules.
func (s *Service) List(ctx context.Context, req wire.TaskCronList) (page wire.TaskCronPage, err error) {
	if req.Limit < 0 || req.Limit > maxPage {
		return page, wire.InvalidField("limit", fmt.Sprintf("from 1 to %d", maxPage))
	}
	if req.Cursor != "" && wire.CheckTaskName("cursor", req.Cursor) != nil {
		return page, wire.InvalidField("cursor", "what the page before named")
	}
	limit := cmp.Or(req.Limit, maxPage)
	var list []Schedule
	if err := s.cfg.Ask(ctx, scanWait, func(ctx context.Context) (err error) {
		list, err = s.cfg.Store.List(ctx, req.Cursor, limit)
		return err
	}); err != nil {
		return page, err
	}
	page.Schedules = make([]wire.TaskCronState, 0, len(list))
	size := 0
	for i := range list {
		if size += len(list[i].Input) + 512; i > 0 && size > pageBytes {
			page.Cursor = list[i-1].Name
			return page, nil
		}
		page.Schedules = append(page.Schedules, state(&list[i]))
	}
	if len(list) == limit {
		page.Cursor = list[limit-1].Name
	}
	return page, nil
}

// Delete removes a schedule. Tasks that it has enqueued stay.
func (s *Service) Delete(ctx context.Context, req wire.TaskCronName) (out wire.TaskCronDeleted, err error) {
	if err := checkName("name", req.Name); err != nil {
		return out, err
	}
	err = s.cfg.Ask(ctx, askWait, func(ctx context.Context) (err error) {
		out.Deleted, err = s.cfg.Store.Delete(ctx, req.Name)
		return err
	})
	return out, err
}

// checkName takes the name of a schedule, which is made as that of a task is.
func checkName(field, name string) error { return wire.CheckTaskName(field, name) }

// check turns what is asked for into a schedule with its defaults, and its plan.
func check(req *wire.TaskCron) (s Schedule, p plan, err error) {
	if err := checkName("name", req.Name); err != nil {
		return s, nil, err
	}
	if err := wire.CheckTaskName("task", req.Task); err != nil {
		return s, nil, err
	}
	if p, err = parse(req.Spec, req.TZ); err != nil {
		return s, nil, err
	}
	s = Schedule{
		Name: req.Name, Spec: strings.TrimSpace(req.Spec), TZ: req.TZ, Task: req.Task, Input: bytes.TrimSpace(req.Input),
		Missed: cmp.Or(req.Missed, wire.CronMissedSkip), Paused: req.Paused, Priority: req.Priority,
	}
	switch {
	case len(s.Input) == 0:
		s.Input = []byte("null")
	case len(s.Input) > maxInput:
		return s, nil, wire.InvalidField("input", fmt.Sprintf("at most %d bytes of JSON", maxInput))
	case !json.Valid(s.Input):
		return s, nil, wire.InvalidField("input", "JSON")
	}
	if !s.Missed.Known() {
		return s, nil, wire.InvalidField("missed", "skip, once or all")
	}
	if s.Priority < -maxPriority || s.Priority > maxPriority {
		return s, nil, wire.InvalidField("priority", "a whole number from -100 to 100")
	}
	if req.Timeout != "" {
		if s.Timeout, err = time.ParseDuration(req.Timeout); err != nil || s.Timeout < minTimeout || s.Timeout > maxTimeout {
			return s, nil, wire.InvalidField("timeout", fmt.Sprintf("a duration such as 90s, from %s to %.0fh", minTimeout, maxTimeout.Hours()))
		}
	}
	return s, p, nil
}

// state is a schedule as it is told.
func state(s *Schedule) wire.TaskCronState {
	out := wire.TaskCronState{
		TaskCron: wire.TaskCron{
			Name: s.Name, Spec: s.Spec, TZ: s.TZ, Task: s.Task, Input: s.Input, Missed: s.Missed, Paused: s.Paused, Priority: s.Priority,
		},
		NextAt: s.NextAt, LastAt: s.LastAt,
	}
	if s.Timeout > 0 {
		out.Timeout = s.Timeout.String()
	}
	return out
}

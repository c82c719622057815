// Command river compares Fairlead's tasks with River on one Postgres, in turn, in
// one run. It is a module of its own, so that River is a dependency of nothing
// else:
//
//	cd bench/river && go run .
//
// It builds fairlead from this checkout and starts a Postgres, which has to be
// installed. Both sides are tuned for throughput: River fetches every 2 ms, polls
// every 20 ms and has 2,000 workers in the process of the callers.
package main

import (
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/fairlead-io/fairlead/internal/bench"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	if err := run(ctx); err != nil {
		fmt.Fprintln(os.Stderr, "river:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context) (err error) {
	var (
		tasks   = flag.Int("n", 0, "tasks of each part with callers; default 30,000")
		backlog = flag.Int("backlog", 0, "tasks of the backlog; default 60,000")
		rounds  = flag.Int("rounds", 0, "how often the sides take turns; default 3")
		callers = flag.String("callers", "64,1024", "callers, one part for each number")
		asJSON  = flag.Bool("json", false, "print the report as JSON")
		dir     = flag.String("dir", "", "where data and logs go, and stay; default: a temporary directory, removed at the end")
		exe     = flag.String("fairlead", "", "the fairlead binary; default: built from this checkout")
	)
	flag.Parse()
	o := bench.Tasks{Tasks: *tasks, Backlog: *backlog, Rounds: *rounds, Rival: openRiver}
	for s := range strings.SplitSeq(*callers, ",") {
		n, err := strconv.Atoi(strings.TrimSpace(s))
		if err != nil {
			return fmt.Errorf("-callers %s: numbers, by comma", *callers)
		}
		o.Callers = append(o.Callers, n)
	}
	if *exe == "" {
		built, err := os.MkdirTemp("", "fairlead-river-")
		if err != nil {
			return err
		}
		defer os.RemoveAll(built)
		*exe = filepath.Join(built, "fairlead")
		cmd := exec.CommandContext(ctx, "go", "build", "-o", *exe, "./cmd/fairlead")
		cmd.Dir, cmd.Stderr = "../..", os.Stderr
		if err := cmd.Run(); err != nil {
			return fmt.Errorf("build fairlead (run this in bench/river): %w", err)
		}
	}
	c, err := o.Run(ctx, bench.SiteConfig{Executable: *exe, Dir: *dir})
	if err != nil {
		return err
	}
	if *asJSON {
		e := json.NewEncoder(os.Stdout)
		e.SetIndent("", "  ")
		err = e.Encode(c)
	} else {
		err = c.WriteTable(os.Stdout)
	}
	if err == nil && c.Failed() {
		err = fmt.Errorf("%d tasks lost, %d done twice", c.Lost, c.Repeated)
	}
	return err
}

// Asks Dapr's sidecar with its own DingTalk binding, and this project's host, the same things, and prints what differs.
// Each difference has to have a row in docs/dapr.md, and each row that begins with a name in bold has to have a difference.
package main

import (
	"fmt"
	"os"
	"slices"
	"strings"
	"sync"
)

func main() {
	if len(os.Args) != 5 {
		fmt.Fprintln(os.Stderr, "usage: differences DAPRD DINGTALK-HOST DOCUMENT FOLDER")
		os.Exit(2)
	}
	document, err := read(os.Args[3])
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	ours, err := ours(os.Args[2])
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	programs := []program{daprd(os.Args[1]), ours}
	for _, world := range worlds() {
		rows, err := visit(world, programs, os.Args[4])
		if err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		for _, row := range rows {
			document.judge(row)
		}
	}
	if !document.summary() {
		os.Exit(1)
	}
}

// Asks everything that there is to ask in a world.
func visit(world world, programs []program, folder string) ([]row, error) {
	sidecars := make([]*sidecar, len(programs))
	asked := slices.Clone(world.cases)
	if !world.mayEnd {
		if slices.ContainsFunc(programs, func(program program) bool { return !program.grpc }) {
			skipped("gRPC: this dingtalk-host has no --dapr-grpc-port")
		} else {
			more := slices.Clone(world.cases)
			if world.name == "alone" {
				more = append(more, bytesOnly()...)
			}
			for _, test := range more {
				if test.overGRPC() {
					asked = append(asked, test.asGRPC())
				}
			}
		}
	}
	for i, program := range programs {
		started, err := start(program, world, folder)
		if err != nil {
			return nil, err
		}
		defer started.stop()
		sidecars[i] = started
	}
	for _, sidecar := range sidecars {
		if ready, err := sidecar.ready(); err != nil {
			return nil, err
		} else if !ready && !world.mayEnd {
			return nil, fmt.Errorf("%s ended:\n%s", sidecar.Name, sidecar.Log())
		}
	}
	rows := make([]row, len(asked))
	var slow sync.WaitGroup
	for _, isSlow := range []bool{true, false} {
		for i, test := range asked {
			if test.slow != isSlow {
				continue
			}
			if isSlow {
				slow.Go(func() { rows[i] = ask(test, sidecars) })
			} else {
				rows[i] = ask(test, sidecars)
			}
		}
	}
	slow.Wait()
	return rows, nil
}

// What came of one case.
type row struct {
	test        test
	err         error
	differences []difference
}

func ask(test test, sidecars []*sidecar) row {
	found := make([]seen, len(sidecars))
	errors := make([]error, len(sidecars))
	method, target, body := test.request()
	var both sync.WaitGroup
	for i, sidecar := range sidecars {
		both.Go(func() {
			if sidecar.HasEnded() {
				found[i] = seen{"starts": "no"}
				return
			}
			if test.grpc {
				found[i], errors[i] = invoke(sidecar, test)
			} else {
				found[i], errors[i] = exchange(sidecar, method, target, test.header, body)
			}
			if errors[i] == nil {
				sidecar.arrivals(test.place, secret, test.later, found[i])
			}
		})
	}
	both.Wait()
	for i, err := range errors {
		if err != nil {
			return row{test: test, err: fmt.Errorf("%s: %w", sidecars[i].Name, err)}
		}
	}
	return row{test: test, differences: compare(found[0], found[1])}
}

var left map[string]bool

// Says once what is left out.
func skipped(what string) {
	if !left[what] {
		left = map[string]bool{what: true}
		fmt.Fprintln(os.Stderr, "!!! SKIPPED: "+what)
	}
}

func short(text string) string {
	runes := []rune(strings.NewReplacer("\n", `\n`, "\t", `\t`).Replace(text))
	switch {
	case len(runes) == 0:
		return "–"
	case len(runes) > 300:
		return string(runes[:300]) + "…"
	}
	return string(runes)
}

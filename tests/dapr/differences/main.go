// Asks Dapr's sidecar with its own DingTalk binding, this project's host, and the sidecar with the host as a pluggable
// component the same things, and prints what differs.
// Each difference has to have a row in docs/dapr.md, and each row that begins with a name in bold has to have a difference.
package main

import (
	"fmt"
	"os"
	"slices"
	"strings"
	"sync"
	"time"
)

func main() {
	if len(os.Args) != 6 && len(os.Args) != 7 {
		fmt.Fprintln(os.Stderr, "usage: differences DAPRD-BUILTIN DAPRD DINGTALK-HOST DOCUMENT FOLDER [PART-OF-A-WORLD'S-NAME]")
		os.Exit(2)
	}
	wanted := ""
	if len(os.Args) == 7 {
		wanted = os.Args[6]
	}
	document, err := read(os.Args[4])
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	host := os.Args[3]
	programs := []program{daprd("dapr", os.Args[1]), ours(host), socket(daprd("socket", os.Args[2]), host)}
	for _, world := range worlds() {
		if !strings.Contains(world.name, wanted) {
			continue
		}
		rows, err := visit(world, programs, os.Args[5])
		if err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		for _, row := range rows {
			document.judge(row)
		}
	}
	// A part does not show every row.
	if wanted != "" && document.failed() || wanted == "" && !document.summary() {
		os.Exit(1)
	}
}

// Asks everything that there is to ask in a world.
func visit(world world, programs []program, folder string) ([]row, error) {
	sidecars := make([]*sidecar, len(programs))
	asked := slices.Clone(world.cases)
	if !world.mayEnd {
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
	if world.mayEnd {
		// daprd serves before it has looked at every component, and may end then.
		time.Sleep(2 * time.Second)
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
	// Of daprd with the component to daprd with its own binding.
	socket []difference
}

func ask(test test, sidecars []*sidecar) row {
	found := make([]seen, len(sidecars))
	errors := make([]error, len(sidecars))
	method, target, body := test.request()
	var both sync.WaitGroup
	for i, sidecar := range sidecars {
		both.Go(func() {
			if sidecar.HasEnded() {
				// Its world is not why.
				if log := sidecar.Log(); strings.Contains(log, "address already in use") || strings.Contains(log, "Address already in use") {
					errors[i] = fmt.Errorf("ended for want of a port:\n%s", log)
					return
				}
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
	unwrap(found[2])
	return row{test: test, differences: compare(found[0], found[1]), socket: compare(found[0], found[2])}
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

// Asks Dapr's sidecar with its own DingTalk binding, and this project's host, the same things, and shows what differs.
// docs/dapr.md must say each difference, and only those.
package main

import (
	"fmt"
	"os"
	"strings"
	"sync"
)

func main() {
	if len(os.Args) != 4 {
		fmt.Fprintln(os.Stderr, "usage: differences DAPRD DINGTALK-HOST FOLDER")
		os.Exit(2)
	}
	programs := []program{daprd(os.Args[1]), ours(os.Args[2])}
	for _, world := range worlds() {
		if err := visit(world, programs, os.Args[3]); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
	}
}

func visit(world world, programs []program, folder string) error {
	sidecars := make([]*sidecar, len(programs))
	for i, program := range programs {
		started, err := start(program, world, folder)
		if err != nil {
			return err
		}
		defer started.stop()
		sidecars[i] = started
	}
	for _, sidecar := range sidecars {
		if ready, err := sidecar.ready(); err != nil {
			return err
		} else if !ready && !world.mayEnd {
			return fmt.Errorf("%s ended:\n%s", sidecar.name, sidecar.log.String())
		}
	}
	rows := make([]row, len(world.cases))
	var slow sync.WaitGroup
	for _, isSlow := range []bool{true, false} {
		for i, test := range world.cases {
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
	fmt.Println("---", world.name)
	for _, row := range rows {
		row.print()
	}
	return nil
}

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
			if sidecar.hasEnded() {
				found[i] = seen{"starts": "no"}
				return
			}
			found[i], errors[i] = exchange(sidecar, method, target, test.header, body)
			if errors[i] == nil {
				sidecar.arrivals(test.place, secret, found[i])
			}
		})
	}
	both.Wait()
	for _, err := range errors {
		if err != nil {
			return row{test: test, err: err}
		}
	}
	return row{test: test, differences: compare(found[0], found[1])}
}

func (r row) print() {
	if r.err != nil {
		fmt.Printf("FAILED  %s: %v\n", r.test.name, r.err)
		return
	}
	verdict := "equal"
	if len(r.differences) > 0 {
		verdict = "differs"
	}
	fmt.Printf("%-8s%s\n", verdict, r.test.name)
	for _, difference := range r.differences {
		if everywhere(difference.what) != "" {
			continue
		}
		fmt.Printf("        %s\n            dapr: %s\n            ours: %s\n", difference.what, short(difference.theirs), short(difference.ours))
	}
}

func short(text string) string {
	quoted := fmt.Sprintf("%.300q", text)
	if len(quoted) > 600 {
		return quoted[:600] + "…"
	}
	return quoted
}

func everywhere(what string) string {
	switch {
	case strings.HasPrefix(what, "header Metadata."), what == "header Traceparent", what == "details", strings.HasSuffix(what, "header User-Agent"), strings.HasSuffix(what, "header Accept-Encoding"), strings.HasSuffix(what, "body, rewritten"), strings.HasSuffix(what, "header Traceparent"), strings.HasSuffix(what, "target, order"):
		return "x"
	}
	return ""
}

package main

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"time"

	"dapr-tests/support"
)

// Rounds, in which each takes its turn: what else the machine does meanwhile concerns all of them.
const rounds = 7

// What the host's own mode is to reach of daprd's requests, by how many are asked at once.
var aims = map[int]float64{1: 1.2, 16: 2.5, 64: 2.5}

// The first is the one that the others are compared with, the second the one that has aims.
var names = []string{"daprd, own binding", "host, rewound", "host, fresh", "daprd, pluggable component"}

// A sidecar that answers, and the processes that it consists of.
type sidecar struct {
	name      string
	address   string
	processes []*support.Process
}

// What was measured of one sidecar at one number of requests at once, round by round.
type figures struct{ rates, used, p99 []float64 }

// Whole sidecars, each of which is sent `create` over HTTP by a program that nobody here wrote: the host in both modes, daprd
// with its own binding, daprd with the component; all at one robot.
func bench(programs paths, seconds int) bool {
	if seconds == 0 {
		seconds = 2
	}
	if err := compared(programs, time.Duration(seconds)*time.Second); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return false
	}
	return true
}

func compared(programs paths, each time.Duration) error {
	generator, err := findGenerator(programs.folder)
	if err != nil {
		return err
	}
	robot, err := startRobot()
	if err != nil {
		return err
	}
	defer robot.end()
	var sidecars []sidecar
	begun, err := robot.seen()
	if err != nil {
		return err
	}
	for i, name := range names {
		s, err := newStage(programs, fmt.Sprintf("bench%d", i))
		if err != nil {
			return err
		}
		defer s.stop()
		s.group = robot.address
		processes, err := s.startSidecar(i)
		if err != nil {
			return fmt.Errorf("%s: %w", name, err)
		}
		sidecars = append(sidecars, sidecar{name, "http://127.0.0.1:" + s.http + "/v1.0/bindings/mydingtalk", processes})
	}
	fmt.Printf("\n%s asks; %s\n\n", generator.name(), filepath.Base(programs.host))
	fmt.Printf("| at once | sidecar | requests | processor time a request | to daprd's own (lowest to highest of %d rounds) | 99 %% within |\n", rounds)
	fmt.Println("|---|---|---|---|---|---|")
	for _, atOnce := range []int{1, 16, 64} {
		found := make([]figures, len(sidecars))
		for round := range rounds + 1 {
			for turn := range sidecars {
				// Nobody is always behind the same one.
				i := turn
				if round%2 == 1 {
					i = len(sidecars) - 1 - turn
				}
				measured, err := ask(generator, sidecars[i], atOnce, each, robot)
				if err != nil {
					return fmt.Errorf("%s, %d at once: %w", sidecars[i].name, atOnce, err)
				}
				// The first one opens connections and compiles what is compiled late.
				if round > 0 {
					found[i].add(measured)
				}
			}
		}
		for i, f := range found {
			ratio := ""
			if i > 0 {
				ratio = f.to(found[0])
			}
			if i == 1 {
				ratio += fmt.Sprintf(", aim %.1f", aims[atOnce])
			}
			fmt.Printf("| %d | %s | %.0f/s | %.0f µs | %s | %.1f ms |\n", atOnce, sidecars[i].name, median(f.rates), median(f.used), ratio, median(f.p99))
		}
	}
	all, err := robot.seen()
	if err != nil {
		return err
	}
	used := float64((all.used - begun.used).Microseconds()) / float64(all.messages-begun.messages)
	fmt.Printf("\nThe robot used %.0f µs of the processor for a message.\n", used)
	return nil
}

// The sidecar with this place in the list.
func (s *stage) startSidecar(place int) ([]*support.Process, error) {
	if err := s.specification(); err != nil {
		return nil, err
	}
	quiet := []string{"--log-level", "warn"}
	switch place {
	case 0:
		s.program = s.builtin
		err := s.startDaprd(quiet...)
		return []*support.Process{s.daprd}, err
	case 3:
		err := errors.Join(s.startComponent(), s.startDaprd(quiet...))
		return []*support.Process{s.daprd, s.component}, err
	}
	command := []string{
		s.host, "serve", "--resources-path", s.resources, "--dapr-http-port", s.http, "--dapr-grpc-port", "0",
		"--instances", []string{"rewound", "fresh"}[place-1],
	}
	process, err := support.Start("dingtalk-host serve", nil, append(command, quiet...)...)
	if err != nil {
		return nil, err
	}
	s.daprd = process
	if ready, err := process.Ready("127.0.0.1:" + s.http); err != nil || !ready {
		return nil, errors.Join(fmt.Errorf("the host does not start: %s", process.Log()), err)
	}
	return []*support.Process{process}, nil
}

// What one round has shown of one sidecar.
type measured struct {
	load
	// Of the processor, for all of it.
	used time.Duration
}

func ask(generator generator, sidecar sidecar, atOnce int, each time.Duration, robot *robot) (measured, error) {
	used := func() (all time.Duration, err error) {
		for _, process := range sidecar.processes {
			used, err := process.Used()
			if err != nil {
				return 0, err
			}
			all += used
		}
		return all, nil
	}
	posted, err := robot.seen()
	if err != nil {
		return measured{}, err
	}
	before, err := used()
	if err != nil {
		return measured{}, err
	}
	load, err := generator.run(sidecar.address, atOnce, each)
	if err != nil {
		return measured{}, err
	}
	after, err := used()
	if err != nil {
		return measured{}, err
	}
	seen, err := robot.seen()
	if messages := seen.messages - posted.messages; err == nil && messages < load.requests {
		err = fmt.Errorf("%d requests were answered, and %d messages were posted", load.requests, messages)
	}
	return measured{load, after - before}, err
}

func (f *figures) add(m measured) {
	f.rates = append(f.rates, m.rate)
	f.used = append(f.used, float64(m.used.Microseconds())/float64(m.requests))
	f.p99 = append(f.p99, m.p99.Seconds()*1e3)
}

// Of the rates, in the same rounds.
func (f *figures) to(other figures) string {
	ratios := make([]float64, len(f.rates))
	for i := range ratios {
		ratios[i] = f.rates[i] / other.rates[i]
	}
	return fmt.Sprintf("%.2f (%.2f to %.2f)", median(ratios), slices.Min(ratios), slices.Max(ratios))
}

func median(values []float64) float64 {
	values = slices.Sorted(slices.Values(values))
	return values[len(values)/2]
}

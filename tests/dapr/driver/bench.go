package main

import (
	"fmt"
	"net/http"
	"path/filepath"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"dapr-tests/support"
)

// Rounds, in which each takes its turn: what else the machine does meanwhile concerns all of them.
const rounds = 3

// What is measured of one program at one number of requests at once.
type figures struct {
	requests int
	took     time.Duration
	times    []time.Duration
	failed   int
}

func (f figures) rate() float64 { return float64(f.requests) / f.took.Seconds() }

func (f figures) p99() time.Duration {
	slices.Sort(f.times)
	if len(f.times) == 0 {
		return 0
	}
	return f.times[min(len(f.times)-1, len(f.times)*99/100)]
}

// Requests a second and the time within which 99 of 100 `create` are answered: the host over HTTP, daprd with its own
// binding, daprd with the component, all at one recording robot.
func bench(programs paths, seconds int) bool {
	if seconds == 0 {
		seconds = 5
	}
	table := &rows{world: "bench"}
	table.row("create", func() (string, error) { return measured(programs, time.Duration(seconds)*time.Second) })
	return table.summary()
}

func measured(programs paths, each time.Duration) (string, error) {
	robot, err := support.Record(recording())
	if err != nil {
		return "", err
	}
	defer robot.Close()
	names := []string{"dingtalk-host serve", "daprd, built in", "daprd, pluggable"}
	addresses := make([]string, len(names))
	for i := range names {
		s, err := newStage(programs, fmt.Sprintf("bench%d", i))
		if err != nil {
			return "", err
		}
		defer s.stop()
		s.group = "http://" + robot.Address
		if err := s.specification(); err != nil {
			return "", err
		}
		switch i {
		case 0:
			process, err := support.Start(names[i], nil, s.host, "serve", "--resources-path", s.resources, "--dapr-http-port", s.http, "--log-level", "warn")
			if err != nil {
				return "", err
			}
			s.daprd = process
			if ready, err := process.Ready("127.0.0.1:" + s.http); err != nil || !ready {
				return process.Log(), fmt.Errorf("the host does not start: %w", err)
			}
		case 1:
			s.program = s.builtin
			err = s.startDaprd("--log-level", "warn")
		case 2:
			err = errorsOf(s.startComponent(), s.startDaprd("--log-level", "warn"))
		}
		if err != nil {
			return "", err
		}
		addresses[i] = "http://127.0.0.1:" + s.http + "/v1.0/bindings/mydingtalk"
	}
	seen := fmt.Sprintf("%s, %d rounds of %v", filepath.Base(programs.host), rounds, each)
	for _, atOnce := range []int{1, 16, 64} {
		found := make([]figures, len(names))
		for range rounds {
			for i, address := range addresses {
				load(address, atOnce, each, &found[i])
				robot.Take("robot")
			}
		}
		for i, figures := range found {
			seen += fmt.Sprintf("\n%3d at once  %-20s %7.0f/s  p99 %7.1f ms  %.2f of daprd's own rate, %.2f of its p99", atOnce, names[i],
				figures.rate(), figures.p99().Seconds()*1000, figures.rate()/found[1].rate(), figures.p99().Seconds()/found[1].p99().Seconds())
			if figures.failed > 0 {
				return seen, fmt.Errorf("%d of them failed", figures.failed)
			}
		}
	}
	return seen, nil
}

// So many clients, each of which sends its next message when it has the answer to the one before.
func load(address string, atOnce int, limit time.Duration, found *figures) {
	s := &stage{client: &http.Client{Timeout: time.Minute, Transport: &http.Transport{MaxIdleConnsPerHost: atOnce}}}
	message := map[string]any{"operation": "create", "data": text("hi")}
	// Connections are there, and what is compiled at the first call is compiled.
	s.post(address, message)
	var clients sync.WaitGroup
	var mutex sync.Mutex
	var failed atomic.Int64
	begun := time.Now()
	for range atOnce {
		clients.Go(func() {
			var times []time.Duration
			for time.Since(begun) < limit {
				sent := time.Now()
				if answer, err := s.post(address, message); err != nil || answer.status != 200 {
					failed.Add(1)
				}
				times = append(times, time.Since(sent))
			}
			mutex.Lock()
			defer mutex.Unlock()
			found.times = append(found.times, times...)
		})
	}
	clients.Wait()
	found.took += time.Since(begun)
	found.requests = len(found.times)
	found.failed += int(failed.Load())
}

package main

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"time"
)

// A program of others that asks as fast as it is answered, over connections that it keeps: wrk, or else ApacheBench.
type generator struct{ program, folder string }

// What it says of a round.
type load struct {
	requests int
	rate     float64
	p99      time.Duration
}

const benchMessage = `{"operation":"create","data":{"msgtype":"text","text":{"content":"hi"}}}`

func findGenerator(folder string) (generator, error) {
	for _, name := range []string{"wrk", "ab"} {
		program, err := exec.LookPath(name)
		if err != nil {
			continue
		}
		if err := os.MkdirAll(folder, 0o700); err != nil {
			return generator{}, err
		}
		script := "wrk.method = 'POST'\nwrk.headers['Content-Type'] = 'application/json'\nwrk.body = '" + benchMessage + "'\n"
		return generator{program, folder}, errors.Join(
			os.WriteFile(filepath.Join(folder, "message.json"), []byte(benchMessage), 0o600),
			os.WriteFile(filepath.Join(folder, "message.lua"), []byte(script), 0o600),
		)
	}
	return generator{}, errors.New("there is neither wrk nor ab: install Debian's wrk, or its apache2-utils")
}

func (g generator) name() string { return filepath.Base(g.program) }

// Asks this address, so many at once, for this time. Every answer must be a success.
func (g generator) run(address string, atOnce int, each time.Duration) (load, error) {
	clients, seconds := strconv.Itoa(atOnce), strconv.Itoa(int(each.Seconds()))
	if g.name() == "wrk" {
		return g.read(`(?m)^ *(\d+) requests in`, `(?m)^Requests/sec: +([\d.]+)`, `(?m)^ +99% +([\d.]+(?:us|ms|s|m))$`,
			`Non-2xx|Socket errors`,
			"-t1", "-c"+clients, "-d"+seconds+"s", "--latency", "-s", filepath.Join(g.folder, "message.lua"), address)
	}
	// Its limit of time sets one of requests, which is set again behind it.
	return g.read(`(?m)^Complete requests: +(\d+)`, `(?m)^Requests per second: +([\d.]+)`, `(?m)^ +99% +(\d+)$`,
		`Non-2xx|Failed requests: +[1-9]`,
		"-q", "-k", "-c", clients, "-t", seconds, "-n", "100000000", "-p", filepath.Join(g.folder, "message.json"),
		"-T", "application/json", address)
}

func (g generator) read(requests, rate, p99, failure string, arguments ...string) (load, error) {
	text, err := exec.Command(g.program, arguments...).CombinedOutput()
	failed := func(err error) (load, error) { return load{}, fmt.Errorf("%s: %w:\n%s", g.name(), err, text) }
	if err != nil {
		return failed(err)
	}
	if regexp.MustCompile(failure).Match(text) {
		return failed(errors.New("requests failed"))
	}
	var found [3]string
	for i, pattern := range []string{requests, rate, p99} {
		match := regexp.MustCompile(pattern).FindSubmatch(text)
		if match == nil {
			return failed(fmt.Errorf("nothing matches %s", pattern))
		}
		found[i] = string(match[1])
	}
	var l load
	var errs [3]error
	l.requests, errs[0] = strconv.Atoi(found[0])
	l.rate, errs[1] = strconv.ParseFloat(found[1], 64)
	if _, err := strconv.Atoi(found[2]); err == nil {
		found[2] += "ms"
	}
	l.p99, errs[2] = time.ParseDuration(found[2])
	if err := errors.Join(errs[:]...); err != nil {
		return failed(err)
	}
	return l, nil
}

package main

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"time"
)

// The robot of host/benches/robot, which takes everything and looks at signatures. It shares the cores with what is measured, and
// uses two thirds of the processor time that one in Go does.
type robot struct {
	address string
	process *exec.Cmd
	orders  io.WriteCloser
	answers *bufio.Reader
}

// What it has seen so far.
type seen struct {
	connections, messages int
	// Of the processor.
	used time.Duration
}

func startRobot() (*robot, error) {
	program := os.Getenv("BENCH_ROBOT")
	if program == "" {
		return nil, errors.New("BENCH_ROBOT names no robot: run this as `make bench-sidecar`")
	}
	process := exec.Command(program)
	process.Env = []string{"DINGTALK_BENCH_ROBOT=" + secret}
	process.Stderr = os.Stderr
	orders, err := process.StdinPipe()
	if err != nil {
		return nil, err
	}
	answers, err := process.StdoutPipe()
	if err != nil {
		return nil, err
	}
	if err := process.Start(); err != nil {
		return nil, err
	}
	r := &robot{process: process, orders: orders, answers: bufio.NewReader(answers)}
	var port int
	if _, err := fmt.Fscanln(r.answers, &port); err != nil {
		r.end()
		return nil, fmt.Errorf("the robot does not say where it is: %w", err)
	}
	r.address = fmt.Sprintf("http://127.0.0.1:%d", port)
	return r, nil
}

func (r *robot) seen() (seen, error) {
	if _, err := fmt.Fprintln(r.orders, "seen"); err != nil {
		return seen{}, err
	}
	var found seen
	_, err := fmt.Fscanln(r.answers, &found.connections, &found.messages, (*int64)(&found.used))
	return found, err
}

// It ends with its input.
func (r *robot) end() {
	r.orders.Close()
	r.process.Wait()
}

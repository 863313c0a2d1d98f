package main

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"net"
	"os"
	"os/exec"
	"regexp"
	"strconv"
	"sync"
	"syscall"
	"time"
)

// A program that was started, and what it has written.
type process struct {
	name    string
	command *exec.Cmd
	ended   chan struct{}
	log     output
}

type output struct {
	mutex sync.Mutex
	bytes bytes.Buffer
}

func (o *output) Write(text []byte) (int, error) {
	o.mutex.Lock()
	defer o.mutex.Unlock()
	return o.bytes.Write(text)
}

func (o *output) String() string {
	o.mutex.Lock()
	defer o.mutex.Unlock()
	return o.bytes.String()
}

// Starts a program with this environment, to which nothing of whoever runs this is added but the path: above all no proxy.
func start(environment []string, command ...string) (*process, error) {
	p := &process{name: command[0], ended: make(chan struct{}), command: exec.Command(command[0], command[1:]...)}
	p.command.Env = append([]string{"PATH=" + os.Getenv("PATH")}, environment...)
	p.command.Stdout, p.command.Stderr = &p.log, &p.log
	// Should this program be killed, nothing stays behind.
	p.command.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if err := p.command.Start(); err != nil {
		return nil, err
	}
	go func() {
		p.command.Wait()
		close(p.ended)
	}()
	return p, nil
}

// Waits until it has said this, and gives the first group.
func (p *process) says(pattern string) (string, error) {
	expression := regexp.MustCompile(pattern)
	for range 1200 {
		if found := expression.FindStringSubmatch(p.log.String()); found != nil {
			return found[1], nil
		}
		select {
		case <-p.ended:
			return "", fmt.Errorf("%s has ended:\n%s", p.name, p.log.String())
		case <-time.After(50 * time.Millisecond):
		}
	}
	return "", fmt.Errorf("%s does not get ready:\n%s", p.name, p.log.String())
}

// Ends it as an operator does.
func (p *process) stop() {
	if p == nil {
		return
	}
	p.command.Process.Signal(syscall.SIGTERM)
	select {
	case <-p.ended:
	case <-time.After(20 * time.Second):
		p.command.Process.Kill()
		<-p.ended
	}
}

// A port that was free a moment ago, below those that the kernel gives to whoever asks for none, so that it still is.
func port() (string, error) {
	var err error
	for range 100 {
		port := strconv.Itoa(10_000 + rand.IntN(20_000))
		var listener net.Listener
		if listener, err = net.Listen("tcp", "127.0.0.1:"+port); err == nil {
			listener.Close()
			return port, nil
		}
	}
	return "", err
}

// What the programs of this folder share: processes, their ports, and servers that record what they are sent.
package support

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"net"
	"net/http"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"
)

// What [Ports] has given.
var given = struct {
	sync.Mutex
	ports map[string]bool
}{ports: map[string]bool{}}

// As many ports as are asked for, free a moment ago. They are below those that the kernel gives to whoever asks for none,
// connections included, so that they are still free when they are used. None is given twice: the program that was given
// it first may not have begun to listen yet.
func Ports(n int) ([]string, error) {
	given.Lock()
	defer given.Unlock()
	var found []string
	for tried := 0; len(found) < n; tried++ {
		port := strconv.Itoa(10_000 + rand.IntN(20_000))
		if given.ports[port] {
			continue
		}
		listener, err := net.Listen("tcp", "127.0.0.1:"+port)
		if err != nil {
			if tried > 100 {
				return nil, err
			}
			continue
		}
		defer listener.Close()
		given.ports[port] = true
		found = append(found, port)
	}
	return found, nil
}

// A program that was started, and what it has written.
type Process struct {
	Name    string
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

// Starts a program with this environment, to which nothing of whoever runs this is added but the path: above all no proxy.
func Start(name string, environment []string, command ...string) (*Process, error) {
	process := &Process{Name: name, ended: make(chan struct{}), command: exec.Command(command[0], command[1:]...)}
	process.command.Env = append([]string{"PATH=" + os.Getenv("PATH")}, environment...)
	process.command.Stdout, process.command.Stderr = &process.log, &process.log
	// Should this program be killed, nothing stays behind.
	process.command.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if err := process.command.Start(); err != nil {
		return nil, err
	}
	go func() {
		process.command.Wait()
		close(process.ended)
	}()
	return process, nil
}

// Everything that it has written.
func (p *Process) Log() string {
	p.log.mutex.Lock()
	defer p.log.mutex.Unlock()
	return p.log.bytes.String()
}

func (p *Process) HasEnded() bool {
	select {
	case <-p.ended:
		return true
	default:
		return false
	}
}

// What it has used of the processor so far, in its own code and in the kernel (Linux).
func (p *Process) Used() (time.Duration, error) {
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", p.command.Process.Pid))
	if err != nil {
		return 0, err
	}
	// Behind the name, which may have blanks and parentheses.
	fields := strings.Fields(string(stat[bytes.LastIndexByte(stat, ')')+1:]))
	if len(fields) < 13 {
		return 0, fmt.Errorf("%q is no /proc/PID/stat", stat)
	}
	var all time.Duration
	for _, field := range fields[11:13] {
		ticks, err := strconv.Atoi(field)
		if err != nil {
			return 0, err
		}
		// A hundred in a second, on every architecture that Go has.
		all += time.Duration(ticks) * 10 * time.Millisecond
	}
	return all, nil
}

// Waits for its end, and says whether that came in time.
func (p *Process) EndsWithin(limit time.Duration) bool {
	select {
	case <-p.ended:
		return true
	case <-time.After(limit):
		return false
	}
}

func (p *Process) Signal(signal os.Signal) { p.command.Process.Signal(signal) }

// Ends it as an operator does.
func (p *Process) Stop() {
	p.Signal(syscall.SIGTERM)
	if !p.EndsWithin(20 * time.Second) {
		p.Kill()
	}
}

// Ends it as a machine does that is switched off.
func (p *Process) Kill() {
	p.Signal(syscall.SIGKILL)
	<-p.ended
}

// Waits until a sidecar at this address serves, or has ended.
func (p *Process) Ready(address string) (bool, error) {
	client := http.Client{Timeout: time.Second}
	for range 600 {
		answer, err := client.Get("http://" + address + "/v1.0/healthz")
		if err == nil {
			answer.Body.Close()
			if answer.StatusCode < 300 {
				return true, nil
			}
		}
		if p.EndsWithin(50 * time.Millisecond) {
			return false, nil
		}
	}
	p.Stop()
	return false, fmt.Errorf("%s does not get ready:\n%s", p.Name, p.Log())
}

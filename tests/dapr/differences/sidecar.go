package main

import (
	"bytes"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// A program that speaks Dapr's API, with a robot and an application of its own.
type sidecar struct {
	name         string
	http, grpc   string
	robot, other *recorder
	app          *recorder
	process      *exec.Cmd
	ended        chan struct{}
	log          bytes.Buffer
}

// How a program is started. The ports are free ones.
type program struct {
	name string
	// Whether it has Dapr's gRPC API.
	grpc    bool
	command func(resources, http, grpc, internal, app string) []string
}

func daprd(path string) program {
	return program{"dapr", true, func(resources, http, grpc, internal, app string) []string {
		command := []string{
			path, "--app-id", "differences", "--resources-path", resources,
			"--dapr-http-port", http, "--dapr-grpc-port", grpc, "--dapr-listen-addresses", "127.0.0.1",
			"--dapr-internal-grpc-port", internal, "--dapr-internal-grpc-listen-address", "127.0.0.1",
			"--enable-metrics=false",
		}
		if app != "" {
			command = append(command, "--app-port", app)
		}
		return command
	}}
}

func ours(path string) (program, error) {
	help, err := exec.Command(path, "serve", "--help").Output()
	grpc := bytes.Contains(help, []byte("--dapr-grpc-port"))
	return program{"ours", grpc, func(resources, http, port, _, app string) []string {
		command := []string{path, "serve", "--app-id", "differences", "--resources-path", resources, "--dapr-http-port", http}
		if grpc {
			command = append(command, "--dapr-grpc-port", port)
		}
		if app != "" {
			command = append(command, "--app-port", app)
		}
		return command
	}}, err
}

// As many ports as are asked for, free a moment ago.
func ports(n int) ([]string, error) {
	var found []string
	for range n {
		listener, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			return nil, err
		}
		defer listener.Close()
		found = append(found, strconv.Itoa(listener.Addr().(*net.TCPAddr).Port))
	}
	return found, nil
}

// Starts a program in a world. It may end by itself: some worlds are there for that.
func start(program program, world world, folder string) (*sidecar, error) {
	sidecar := &sidecar{name: program.name, ended: make(chan struct{})}
	var err error
	if sidecar.other, err = record(robots()); err != nil {
		return nil, err
	}
	answers := robots()
	answers["redirect"] = http.RedirectHandler("http://"+sidecar.other.address+"/redirect", http.StatusTemporaryRedirect).ServeHTTP
	if sidecar.robot, err = record(answers); err != nil {
		return nil, err
	}
	app := ""
	if world.app {
		if sidecar.app, err = record(applications()); err != nil {
			return nil, err
		}
		_, app, _ = net.SplitHostPort(sidecar.app.address)
	}
	free, err := ports(4)
	if err != nil {
		return nil, err
	}
	resources := filepath.Join(folder, world.name, program.name)
	if err := os.RemoveAll(resources); err != nil {
		return nil, err
	}
	if err := os.MkdirAll(resources, 0o700); err != nil {
		return nil, err
	}
	// A port where nobody listens.
	fill := strings.NewReplacer("ROBOT", sidecar.robot.address, "NOBODY", "127.0.0.1:"+free[3], "FOLDER", resources)
	for name, text := range world.files {
		if err := os.WriteFile(filepath.Join(resources, name), []byte(fill.Replace(text)), 0o600); err != nil {
			return nil, err
		}
	}
	sidecar.http, sidecar.grpc = "127.0.0.1:"+free[0], "127.0.0.1:"+free[1]
	command := program.command(resources, free[0], free[1], free[2], app)
	sidecar.process = exec.Command(command[0], command[1:]...)
	// Nothing of whoever runs this, above all no proxy.
	sidecar.process.Env = append([]string{"PATH=" + os.Getenv("PATH"), "HOME=" + folder}, world.environment...)
	sidecar.process.Stdout, sidecar.process.Stderr = &sidecar.log, &sidecar.log
	if err := sidecar.process.Start(); err != nil {
		return nil, err
	}
	go func() {
		sidecar.process.Wait()
		close(sidecar.ended)
	}()
	return sidecar, nil
}

// Waits until the program serves, or has ended.
func (s *sidecar) ready() (bool, error) {
	client := http.Client{Timeout: time.Second}
	for range 600 {
		answer, err := client.Get("http://" + s.http + "/v1.0/healthz")
		if err == nil {
			answer.Body.Close()
			if answer.StatusCode < 300 {
				return true, nil
			}
		}
		select {
		case <-s.ended:
			return false, nil
		case <-time.After(50 * time.Millisecond):
		}
	}
	s.stop()
	return false, fmt.Errorf("%s does not get ready:\n%s", s.name, s.log.String())
}

func (s *sidecar) hasEnded() bool {
	select {
	case <-s.ended:
		return true
	default:
		return false
	}
}

func (s *sidecar) stop() {
	s.process.Process.Signal(syscall.SIGTERM)
	select {
	case <-s.ended:
	case <-time.After(20 * time.Second):
		s.process.Process.Kill()
		<-s.ended
	}
	for _, server := range []*recorder{s.robot, s.other, s.app} {
		if server != nil {
			server.close()
		}
	}
}

// What may differ from one run, or one process, to the next.
func (s *sidecar) normal(text string) string {
	replace := []string{s.robot.address, "ROBOT", s.other.address, "ELSEWHERE", s.http, "SIDECAR"}
	if s.app != nil {
		replace = append(replace, s.app.address, "APP")
	}
	return normal(strings.NewReplacer(replace...).Replace(text))
}

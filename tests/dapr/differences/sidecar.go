package main

import (
	"fmt"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"time"

	"dapr-tests/support"
)

// A program that speaks Dapr's API, with a robot and an application of its own.
type sidecar struct {
	http, grpc   string
	robot, other *support.Recorder
	app          *support.Recorder
	*support.Process
	beside  *support.Process
	sockets string
}

// How a program is started. The ports are free ones.
type program struct {
	name    string
	command func(resources, http, grpc, internal, app string) []string
	// What has to be there before, given the folder in which daprd looks for components.
	beside func(sockets string) []string
}

// With its own binding, or without one.
func daprd(name, path string) program {
	return program{name: name, command: func(resources, http, grpc, internal, app string) []string {
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

// daprd with this project's host as a pluggable component.
func socket(daprd program, host string) program {
	daprd.beside = func(sockets string) []string {
		return []string{host, "pluggable", "--components-sockets-folder", sockets}
	}
	return daprd
}

func ours(path string) program {
	return program{name: "ours", command: func(resources, http, grpc, _, app string) []string {
		command := []string{
			path, "serve", "--app-id", "differences", "--resources-path", resources, "--dapr-http-port", http,
			"--dapr-grpc-port", grpc,
		}
		if app != "" {
			command = append(command, "--app-port", app)
		}
		return command
	}}
}

// Starts a program in a world. It may end by itself: some worlds are there for that.
func start(program program, world world, folder string) (*sidecar, error) {
	sidecar := &sidecar{}
	var err error
	if sidecar.other, err = support.Record(robots()); err != nil {
		return nil, err
	}
	answers := robots()
	answers["redirect"] = http.RedirectHandler("http://"+sidecar.other.Address+"/redirect", http.StatusTemporaryRedirect).ServeHTTP
	if sidecar.robot, err = support.Record(answers); err != nil {
		return nil, err
	}
	app := ""
	if world.app {
		if sidecar.app, err = support.Record(applications()); err != nil {
			return nil, err
		}
		_, app, _ = net.SplitHostPort(sidecar.app.Address)
	}
	free, err := support.Ports(4)
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
	fill := strings.NewReplacer("ROBOT", sidecar.robot.Address, "NOBODY", "127.0.0.1:"+free[3], "FOLDER", resources)
	for name, text := range world.files {
		if err := os.WriteFile(filepath.Join(resources, name), []byte(fill.Replace(text)), 0o600); err != nil {
			return nil, err
		}
	}
	sidecar.http, sidecar.grpc = "127.0.0.1:"+free[0], "127.0.0.1:"+free[1]
	command := program.command(resources, free[0], free[1], free[2], app)
	environment := append([]string{"HOME=" + folder}, world.environment...)
	if program.beside != nil {
		// A socket's path may have 107 bytes.
		sockets, err := os.MkdirTemp("", "dapr-")
		if err != nil {
			return nil, err
		}
		if sidecar.beside, err = support.Start("pluggable", environment, program.beside(sockets)...); err != nil {
			return nil, err
		}
		for strings.Count(sidecar.beside.Log(), "listening for daprd") < 2 {
			if sidecar.beside.EndsWithin(20 * time.Millisecond) {
				return nil, fmt.Errorf("pluggable ended:\n%s", sidecar.beside.Log())
			}
		}
		environment = append(environment, "DAPR_COMPONENTS_SOCKETS_FOLDER="+sockets)
		sidecar.sockets = sockets
	}
	sidecar.Process, err = support.Start(program.name, environment, command...)
	return sidecar, err
}

// Waits until the program serves, or has ended.
func (s *sidecar) ready() (bool, error) { return s.Ready(s.http) }

func (s *sidecar) stop() {
	s.Stop()
	if s.beside != nil {
		s.beside.Stop()
		os.RemoveAll(s.sockets)
	}
	for _, server := range []*support.Recorder{s.robot, s.other, s.app} {
		if server != nil {
			server.Close()
		}
	}
}

// What may differ from one run, or one process, to the next.
func (s *sidecar) normal(text string) string {
	replace := []string{s.robot.Address, "ROBOT", s.other.Address, "ELSEWHERE", s.http, "SIDECAR"}
	if s.app != nil {
		replace = append(replace, s.app.Address, "APP")
	}
	return normal(strings.NewReplacer(replace...).Replace(text))
}

package main

import (
	"fmt"
	"path/filepath"
	"regexp"
	"strings"

	"dapr-tests/support"
)

var step = regexp.MustCompile(`(?m)^ *--- (PASS|FAIL|SKIP): TestConformance/(\S+)/(\S+)`)

// Dapr's own conformance tests, which are a program beside this one: what each of their steps came to.
func conformance(table *rows, programs paths) error {
	s, err := newStage(programs, "conformance")
	if err != nil {
		return err
	}
	defer s.stop()
	if err := s.startGroup("default"); err != nil {
		return err
	}
	if err := s.startComponent(); err != nil {
		return err
	}
	tests, err := support.Start("conformance", []string{
		"HOME=" + s.folder, "SOCKET=" + filepath.Join(s.sockets, "dingtalk.webhook.sock"),
		"ROBOT_URL=" + s.group + "/robot/send?access_token=simulated-access-token", "ROBOT_SECRET=" + secret,
	}, programs.conformance, "-test.v", "-test.timeout=5m")
	if err != nil {
		return err
	}
	if !tests.EndsWithin(6 * patience) {
		tests.Kill()
	}
	log := tests.Log()
	steps := map[string][]string{}
	for _, found := range step.FindAllStringSubmatch(log, -1) {
		verdict, profile, name := found[1], found[2], found[3]
		steps[profile] = append(steps[profile], name)
		if verdict != "PASS" {
			table.row(profile+": "+name, func() (string, error) { return log, fmt.Errorf("%s", verdict) })
		}
	}
	for profile, expected := range map[string]string{
		"create": "init ping operations create close", "get": "init ping operations read get verify_read close",
	} {
		table.row("profile with "+profile, func() (string, error) {
			passed := strings.Join(steps[profile], " ")
			err := equal("steps", passed, expected)
			if err != nil {
				err = errorsOf(err, fmt.Errorf("%s", log))
			}
			return passed, err
		})
	}
	return nil
}

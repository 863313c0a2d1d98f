package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"time"

	"dapr-tests/support"
)

const secret = "SECsimulated"

// For what takes a moment on an idle machine.
const patience = 60 * time.Second

// A simulated group, the component's process, daprd and an application, each of which can go and come back.
type stage struct {
	paths
	resources, sockets, inbox       string
	callbacks, http, grpc, internal string
	// Where the simulated robot is.
	group     string
	simulator *support.Process
	component *support.Process
	daprd     *support.Process
	app       *application
	// Which daprd.
	program string
	client  *http.Client
}

var said = regexp.MustCompile(`simulated DingTalk robot: (http://[^/]*)/`)

// A group, an application, and nothing between them yet.
func newStage(programs paths, name string) (*stage, error) {
	folder := filepath.Join(programs.folder, name)
	if err := os.RemoveAll(folder); err != nil {
		return nil, err
	}
	s := &stage{
		paths: programs, resources: filepath.Join(folder, "resources"), inbox: filepath.Join(folder, "inbox"),
		// A socket's path may have 107 bytes.
		sockets: filepath.Join(os.TempDir(), fmt.Sprintf("dapr-%d-%s", os.Getpid(), name)),
		program: programs.daprd,
		client:  &http.Client{Timeout: 2 * time.Minute, Transport: &http.Transport{MaxIdleConnsPerHost: 64}},
	}
	for _, folder := range []string{s.resources, s.sockets} {
		if err := os.MkdirAll(folder, 0o700); err != nil {
			return nil, err
		}
	}
	ports, err := support.Ports(5)
	if err != nil {
		return nil, err
	}
	s.callbacks, s.http, s.grpc, s.internal = ports[0], ports[1], ports[2], ports[3]
	s.app = newApplication(ports[4])
	return s, s.app.open()
}

// Starts the group, whose messages go to the component of this name.
func (s *stage) startGroup(name string, flags ...string) error {
	command := append([]string{
		s.host, "simulate", "--port", "0", "--secret", secret, "--rate-limit", "0", "--callback-retries", "20",
		"--callback-retry-interval", "300ms", "--callback-url", s.callbackURL(name),
	}, flags...)
	var err error
	if s.simulator, err = support.Start("simulate", nil, command...); err != nil {
		return err
	}
	return eventually(patience, "the simulator says where it is", func() bool {
		if found := said.FindStringSubmatch(s.simulator.Log()); found != nil {
			s.group = found[1]
		}
		return s.group != ""
	})
}

func (s *stage) callbackURL(name string) string {
	return "http://127.0.0.1:" + s.callbacks + "/v1.0/bindings/" + name + "/callback"
}

// From now on, what people say goes to the component of this name.
func (s *stage) speakTo(name string) error {
	body, _ := json.Marshal(map[string]string{"url": s.callbackURL(name)})
	request, err := http.NewRequest(http.MethodPut, s.group+"/callback-url", bytes.NewReader(body))
	if err != nil {
		return err
	}
	answer, err := s.client.Do(request)
	if err != nil {
		return err
	}
	answer.Body.Close()
	return equal("status of /callback-url", answer.StatusCode, 204)
}

// Starts the component's process, and waits until daprd can find it.
func (s *stage) startComponent(flags ...string) error { return s.startComponentWith(nil, flags...) }

// The same, with these environment variables.
func (s *stage) startComponentWith(environment []string, flags ...string) error {
	command := append([]string{
		s.host, "pluggable", "--callback-port", s.callbacks, "--components-sockets-folder", s.sockets,
	}, flags...)
	var err error
	if s.component, err = support.Start("dingtalk-host pluggable", environment, command...); err != nil {
		return err
	}
	err = eventually(patience, "the component listens for daprd", func() bool {
		return s.component.HasEnded() || strings.Count(s.component.Log(), "listening for daprd") == 2
	})
	if err == nil && s.component.HasEnded() {
		err = errors.New("the component has ended")
	}
	if err != nil {
		return fmt.Errorf("%w:\n%s", err, s.component.Log())
	}
	return nil
}

// Starts daprd, and does not wait.
func (s *stage) launchDaprd(flags ...string) error {
	command := append([]string{
		s.program, "--app-id", "driver", "--resources-path", s.resources, "--app-port", s.app.port,
		"--dapr-http-port", s.http, "--dapr-grpc-port", s.grpc, "--dapr-listen-addresses", "127.0.0.1",
		"--dapr-internal-grpc-port", s.internal, "--dapr-internal-grpc-listen-address", "127.0.0.1",
		"--enable-metrics=false",
	}, flags...)
	var err error
	environment := []string{"HOME=" + s.folder, "DAPR_COMPONENTS_SOCKETS_FOLDER=" + s.sockets}
	s.daprd, err = support.Start("daprd", environment, command...)
	return err
}

// Starts daprd, and waits until it serves.
func (s *stage) startDaprd(flags ...string) error {
	if err := s.launchDaprd(flags...); err != nil {
		return err
	}
	ready, err := s.daprd.Ready("127.0.0.1:" + s.http)
	if err == nil && !ready {
		err = fmt.Errorf("daprd has ended:\n%s", s.daprd.Log())
	}
	return err
}

// Ends what runs.
func (s *stage) stop() {
	for _, process := range []*support.Process{s.daprd, s.component, s.simulator} {
		if process != nil && !process.HasEnded() {
			process.Stop()
		}
	}
	s.app.close()
	os.RemoveAll(s.sockets)
}

// Writes the specification's component file.
func (s *stage) write(name, kind, secret string, more ...string) error {
	text := fmt.Sprintf(`apiVersion: dapr.io/v1alpha1
kind: Component
metadata:
  name: %s
spec:
  type: %s
  version: v1
  metadata:
  - name: id
    value: "test_webhook_id"
  - name: url
    value: "%s/robot/send?access_token=simulated-access-token"
  - name: secret
    value: "%s"
  - name: rateLimit
    value: "0"
`, name, kind, s.group, secret)
	for i := 0; i+1 < len(more); i += 2 {
		text += fmt.Sprintf("  - name: %s\n    value: %q\n", more[i], more[i+1])
	}
	// At once, as an editor does it: daprd reads what it finds.
	part := filepath.Join(s.folder, name+".part")
	if err := os.WriteFile(part, []byte(text), 0o600); err != nil {
		return err
	}
	return os.Rename(part, s.file(name))
}

func (s *stage) file(name string) string { return filepath.Join(s.resources, name+".yaml") }

// An answer over HTTP.
type answer struct {
	status int
	header http.Header
	body   string
}

func (a answer) String() string { return strings.TrimSpace(fmt.Sprintf("%d %s", a.status, a.body)) }

func (s *stage) post(url string, body any) (answer, error) {
	text, err := json.Marshal(body)
	if err != nil {
		return answer{}, err
	}
	response, err := s.client.Post(url, "application/json", bytes.NewReader(text))
	if err != nil {
		return answer{}, err
	}
	defer response.Body.Close()
	found, err := io.ReadAll(response.Body)
	return answer{response.StatusCode, response.Header, string(found)}, err
}

// Has daprd perform an operation.
func (s *stage) invoke(name, operation string, data any, metadata map[string]string) (answer, error) {
	return s.post("http://127.0.0.1:"+s.http+"/v1.0/bindings/"+name,
		map[string]any{"operation": operation, "data": data, "metadata": metadata})
}

func text(content string) any {
	return map[string]any{"msgtype": "text", "text": map[string]any{"content": content}}
}

// What became of what a person said.
type outcome struct {
	Attempts []struct {
		Status *int
		Error  *string
	}
	Reply   json.RawMessage
	Shown   *string
	Problem *string
}

// The status of each attempt; 0 is none.
func (o outcome) statuses() []int {
	var found []int
	for _, attempt := range o.Attempts {
		status := 0
		if attempt.Status != nil {
			status = *attempt.Status
		}
		found = append(found, status)
	}
	return found
}

func (o outcome) last() int {
	statuses := o.statuses()
	if len(statuses) == 0 {
		return 0
	}
	return statuses[len(statuses)-1]
}

// A person says something in the group.
func (s *stage) say(order map[string]any) (outcome, error) {
	var found outcome
	answer, err := s.post(s.group+"/say", order)
	if err != nil {
		return found, err
	}
	if answer.status != 200 {
		return found, fmt.Errorf("/say: %s", answer)
	}
	return found, json.Unmarshal([]byte(answer.body), &found)
}

// Messages of the robot that the group saw, by their text, and how often.
func (s *stage) shown() (map[string]int, error) {
	response, err := s.client.Get(s.group + "/messages")
	if err != nil {
		return nil, err
	}
	defer response.Body.Close()
	var messages []struct {
		Via     string
		Message struct{ Text struct{ Content string } }
	}
	if err := json.NewDecoder(response.Body).Decode(&messages); err != nil {
		return nil, err
	}
	found := map[string]int{}
	for _, message := range messages {
		found[message.Message.Text.Content]++
	}
	return found, nil
}

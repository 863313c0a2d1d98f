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
	"strconv"
	"strings"
	"time"
)

const (
	secret = "SECsimulated"
	token  = "simulated-access-token"
)

// What differs from the example, and from the simulator's own defaults.
type setting struct {
	// Texts of the example's files, each of which has to be there once, and what stands there instead.
	instead map[string]string
	// Further flags of the simulator.
	robot []string
	// The secret that the host has.
	secret string
	// DingTalk is not there at the start.
	away bool
	// What the binding has beside the example's properties.
	properties map[string]string
	// The host keeps what it takes.
	outbox bool
}

// Alertmanager with the example's files, the host with the example's binding, and the robot.
type world struct {
	programs
	setting
	folder                        string
	robotPort                     string
	robot, host, manager          *process
	robotURL, hostURL, managerURL string
}

type programs struct {
	host, manager, amtool, example, work string
}

func (p programs) world(name string, s setting) (*world, error) {
	w := &world{programs: p, setting: s, folder: filepath.Join(p.work, "worlds", name)}
	if w.secret == "" {
		w.secret = secret
	}
	if err := w.begin(); err != nil {
		w.end()
		return nil, fmt.Errorf("%s: %w", name, err)
	}
	return w, nil
}

func (w *world) begin() (err error) {
	if err := os.RemoveAll(w.folder); err != nil {
		return err
	}
	if err := os.MkdirAll(w.folder, 0o755); err != nil {
		return err
	}
	if w.robotPort, err = port(); err != nil {
		return err
	}
	w.robotURL = "http://127.0.0.1:" + w.robotPort
	if !w.away {
		if err := w.returns(); err != nil {
			return err
		}
	}
	if err := w.binding(); err != nil {
		return err
	}
	if err := w.serve("0"); err != nil {
		return err
	}
	if err := w.files(); err != nil {
		return err
	}
	own, err := port()
	if err != nil {
		return err
	}
	w.managerURL = "http://127.0.0.1:" + own
	// The cluster's port is for others of its kind; there are none.
	w.manager, err = start(nil, w.programs.manager, "--config.file", filepath.Join(w.folder, "alertmanager.yml"),
		"--storage.path", filepath.Join(w.folder, "data"), "--web.listen-address", "127.0.0.1:"+own, "--cluster.listen-address=")
	if err != nil {
		return err
	}
	_, err = w.manager.says(`(Listening on)`)
	return err
}

// The host, on this port.
func (w *world) serve(port string) (err error) {
	environment := []string{"ROBOT_URL=" + w.robotURL + "/robot/send?access_token=" + token, "ROBOT_SECRET=" + w.secret}
	command := []string{w.programs.host, "serve", "--resources-path", filepath.Join(w.folder, "components"),
		"--dapr-http-port", port, "--dapr-grpc-port", "0"}
	if w.outbox {
		command = append(command, "--outbox", filepath.Join(w.folder, "outbox"))
	}
	if w.host, err = start(environment, command...); err != nil {
		return err
	}
	address, err := w.host.says(`HTTP API is listening.*address=(\S+)`)
	w.hostURL = "http://" + address
	return err
}

// The host is killed, says nothing to anybody, and is there again.
func (w *world) killed() error {
	w.host.command.Process.Kill()
	<-w.host.ended
	return w.serve(w.hostURL[strings.LastIndex(w.hostURL, ":")+1:])
}

// The example's binding, with further properties.
func (w *world) binding() error {
	bytes, err := os.ReadFile(filepath.Join(w.example, "components", "alerts.yaml"))
	if err != nil {
		return err
	}
	const first = "  metadata:\n  - name: id\n"
	if strings.Count(string(bytes), first) != 1 {
		return fmt.Errorf("the example does not have %q any more", first)
	}
	more := "  metadata:\n"
	for name, value := range w.properties {
		more += fmt.Sprintf("  - name: %s\n    value: %q\n", name, value)
	}
	text := strings.Replace(string(bytes), first, more+"  - name: id\n", 1)
	folder := filepath.Join(w.folder, "components")
	return errors.Join(os.Mkdir(folder, 0o755), os.WriteFile(filepath.Join(folder, "alerts.yaml"), []byte(text), 0o644))
}

// The robot is there from now on.
func (w *world) returns() (err error) {
	flags := append([]string{w.programs.host, "simulate", "--port", w.robotPort, "--secret", secret}, w.setting.robot...)
	if w.robot, err = start(nil, flags...); err != nil {
		return err
	}
	_, err = w.robot.says(`simulated DingTalk robot: (\S+)`)
	return err
}

func (w *world) end() {
	w.manager.stop()
	w.host.stop()
	w.robot.stop()
}

// The example's files, with this world's addresses and times.
func (w *world) files() error {
	left := map[string]string{"http://127.0.0.1:3500/": w.hostURL + "/"}
	for old, new := range w.instead {
		left[old] = new
	}
	for _, name := range []string{"alertmanager.yml", "dingtalk.tmpl"} {
		bytes, err := os.ReadFile(filepath.Join(w.example, name))
		if err != nil {
			return err
		}
		text := string(bytes)
		for old, new := range left {
			if count := strings.Count(text, old); count > 1 {
				return fmt.Errorf("%s has %q %d times", name, old, count)
			} else if count == 1 {
				text = strings.Replace(text, old, new, 1)
				delete(left, old)
			}
		}
		if err := os.WriteFile(filepath.Join(w.folder, name), []byte(text), 0o644); err != nil {
			return err
		}
	}
	if len(left) > 0 {
		return fmt.Errorf("the example does not have %v any more", left)
	}
	return nil
}

var client = http.Client{Timeout: 10 * time.Second}

func request(method, url string, body any, into any) error {
	encoded, err := json.Marshal(body)
	if err != nil {
		return err
	}
	asked, err := http.NewRequest(method, url, bytes.NewReader(encoded))
	if err != nil {
		return err
	}
	asked.Header.Set("Content-Type", "application/json")
	answer, err := client.Do(asked)
	if err != nil {
		return err
	}
	defer answer.Body.Close()
	text, err := io.ReadAll(answer.Body)
	if err != nil {
		return err
	}
	if answer.StatusCode >= 300 {
		return fmt.Errorf("%s %s: %d %s", method, url, answer.StatusCode, text)
	}
	if into == nil {
		return nil
	}
	return json.Unmarshal(text, into)
}

type alert struct {
	Labels       map[string]string `json:"labels"`
	Annotations  map[string]string `json:"annotations,omitempty"`
	StartsAt     time.Time         `json:"startsAt"`
	EndsAt       time.Time         `json:"endsAt"`
	GeneratorURL string            `json:"generatorURL,omitempty"`
}

// As Prometheus sends one that fires: with an end that is far enough, should it not be sent again.
func firing(labels map[string]string, summary string) alert {
	now := time.Now()
	return alert{Labels: labels, Annotations: map[string]string{"summary": summary}, StartsAt: now, EndsAt: now.Add(time.Hour)}
}

func (a alert) resolved() alert {
	a.EndsAt = time.Now()
	return a
}

// Prometheus sends its alerts to this endpoint.
func (w *world) alerts(alerts ...alert) error {
	return request("POST", w.managerURL+"/api/v2/alerts", alerts, nil)
}

// A message that the group has seen.
type message struct {
	ReceivedAt int64           `json:"receivedAt"`
	Msgtype    string          `json:"msgtype"`
	MsgUuid    string          `json:"msgUuid"`
	Shown      string          `json:"shown"`
	Signed     bool            `json:"signed"`
	Body       json.RawMessage `json:"message"`
	markdown
}

type markdown struct {
	Markdown struct{ Title, Text string }
	At       struct{ AtMobiles []string }
}

func (w *world) messages() ([]message, error) {
	var messages []message
	if err := request("GET", w.robotURL+"/messages", nil, &messages); err != nil {
		return nil, err
	}
	for i := range messages {
		if err := json.Unmarshal(messages[i].Body, &messages[i].markdown); err != nil {
			return nil, err
		}
	}
	return messages, nil
}

// Waits for so many.
func (w *world) seen(number int, limit time.Duration) ([]message, error) {
	var messages []message
	is := func() bool {
		var err error
		messages, err = w.messages()
		return err == nil && len(messages) >= number
	}
	err := eventually(limit, fmt.Sprintf("%d messages are seen", number), is)
	if err != nil {
		err = fmt.Errorf("%w; Alertmanager:\n%s", err, last(w.manager.log.String(), 2000))
	}
	return messages, err
}

// The robot's counters.
type stats struct {
	Requests, Accepted, Repeated, Faults int
	Rejected                             map[string]int
}

func (w *world) stats() (stats stats, err error) {
	return stats, request("GET", w.robotURL+"/stats", nil, &stats)
}

// How many requests Alertmanager has made of the host, and how many notifications it has given up.
func (w *world) asked() (requests, failed int, err error) {
	answer, err := client.Get(w.managerURL + "/metrics")
	if err != nil {
		return 0, 0, err
	}
	defer answer.Body.Close()
	text, err := io.ReadAll(answer.Body)
	if err != nil {
		return 0, 0, err
	}
	sum := func(name string) (sum int, err error) {
		lines := regexp.MustCompile(`(?m)^`+name+`\{[^}]*integration="webhook"[^}]*\} (\S+)$`).FindAllSubmatch(text, -1)
		if lines == nil {
			return 0, errors.New("Alertmanager has no metric " + name)
		}
		for _, line := range lines {
			number, err := strconv.ParseFloat(string(line[1]), 64)
			if err != nil {
				return 0, err
			}
			sum += int(number)
		}
		return sum, nil
	}
	if requests, err = sum("alertmanager_notification_requests_total"); err != nil {
		return 0, 0, err
	}
	failed, err = sum("alertmanager_notifications_failed_total")
	return requests, failed, err
}

// Waits until Alertmanager has given up so many notifications.
func (w *world) gaveUp(number int, limit time.Duration) error {
	return eventually(limit, fmt.Sprintf("%d notifications are given up", number), func() bool {
		_, failed, err := w.asked()
		return err == nil && failed >= number
	})
}

func last(text string, bytes int) string { return text[max(0, len(text)-bytes):] }

// Another message to the same robot: its status begins so, and it is to come again within so many seconds, of which no more than
// some minutes have gone.
func (w *world) withheld(hundreds, seconds int) (string, error) {
	asked, err := http.NewRequest("POST", w.hostURL+"/v1.0/bindings/alerts",
		strings.NewReader(`{"operation":"create","data":{"message":"Hi"}}`))
	if err != nil {
		return "", err
	}
	asked.Header.Set("dingtalk-error-status", "http")
	answer, err := client.Do(asked)
	if err != nil {
		return "", err
	}
	answer.Body.Close()
	header := answer.Header.Get("Retry-After")
	wait, err := strconv.Atoi(header)
	return fmt.Sprintf("%d, Retry-After: %s", answer.StatusCode, header), errors.Join(err,
		equal("hundreds of the status", answer.StatusCode/100, hundreds), equal("the wait is right", wait > seconds-300 && wait <= seconds, true))
}

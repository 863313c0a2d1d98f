package main

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"dapr-tests/support"
)

const kind = "bindings.dingtalk.webhook"

// Everything that takes seconds: what is sent and received, and what happens when one of them goes.
func run(programs paths) bool {
	table := &rows{}
	for _, part := range []struct {
		world string
		play  func(*rows, paths) error
	}{
		{"daprd", plain},
		{"gRPC", speaksGRPC},
		{"two daprds", two},
		{"daprd restarts", restarts},
		{"hot reload", reloads},
		{"our restart", killed},
		{"daprd-builtin", builtin},
		{"conformance", conformance},
	} {
		table.world = part.world
		if err := part.play(table, programs); err != nil {
			table.row("runs to its end", func() (string, error) { return "", err })
		}
	}
	return table.summary()
}

// Starts a whole stage with component files of these names, and waits until daprd reads from the first.
func staged(programs paths, name string, files func(*stage) error, flags ...string) (*stage, error) {
	s, err := newStage(programs, name)
	if err != nil {
		return nil, err
	}
	for _, step := range []func() error{
		func() error { return s.startGroup("mydingtalk") },
		func() error { return files(s) },
		func() error { return s.startComponent(flags...) },
		func() error { return s.startDaprd() },
	} {
		if err := step(); err != nil {
			s.stop()
			return nil, err
		}
	}
	return s, nil
}

func (s *stage) specification() error { return s.write("mydingtalk", kind, secret) }

// One message each way, which shows that the ways are open.
func (s *stage) works(text string) (string, error) {
	sent, err := s.create("mydingtalk", "sent, "+text)
	if err != nil {
		return sent, err
	}
	return s.hears("mydingtalk", "said, "+text)
}

// A message to the group.
func (s *stage) create(name, content string) (string, error) {
	answer, err := s.invoke(name, "create", text(content), nil)
	if err != nil {
		return "", err
	}
	if answer.status != 200 {
		return answer.String(), fmt.Errorf("create: not 200")
	}
	shown, err := s.shown()
	if err != nil {
		return "", err
	}
	return fmt.Sprintf("200, errcode %s, shown", answer.header.Get("Metadata.errcode")), equal("messages shown", shown[content], 1)
}

// A person's message to the application, through the input side of this component.
func (s *stage) hears(name, content string) (string, error) {
	outcome, err := s.say(map[string]any{"text": content})
	if err != nil {
		return "", err
	}
	came := s.app.received(content)
	seen := fmt.Sprintf("%v, delivered %d", outcome.statuses(), len(came))
	if outcome.last() != 200 || len(came) == 0 {
		return seen, fmt.Errorf("it did not come; the component says:\n%s", tail(s.component.Log()))
	}
	return seen, equal("path", came[0].path, "/"+name)
}

func tail(log string) string {
	lines := strings.Split(strings.TrimSpace(log), "\n")
	return strings.Join(lines[max(0, len(lines)-8):], "\n")
}

// What both sides do while everybody is there.
func plain(table *rows, programs paths) error {
	table.row("without our socket: does not start", func() (string, error) {
		s, err := newStage(programs, "alone")
		if err != nil {
			return "", err
		}
		defer s.stop()
		if err := s.startGroup("mydingtalk"); err != nil {
			return "", err
		}
		if err := s.specification(); err != nil {
			return "", err
		}
		if err := s.launchDaprd(); err != nil {
			return "", err
		}
		if !s.daprd.EndsWithin(patience) {
			return "", fmt.Errorf("it runs")
		}
		const text = "couldn't find "
		return text + "… binding mydingtalk", contains(s.daprd.Log(), text, kind)
	})
	// A robot with a session of its own host, one way only, with the other name, and with a wrong secret.
	s, err := staged(programs, "plain", func(s *stage) error {
		for _, file := range []struct {
			name, kind, secret string
			more               []string
		}{
			{"mydingtalk", kind, secret, []string{"sessionWebhookHosts", s.group}},
			{"alias", "bindings.alicloud.dingtalk.webhook", secret, nil},
			{"inputonly", kind, secret, []string{"direction", "input"}},
			{"outputonly", kind, secret, []string{"direction", "output"}},
			{"both", kind, secret, []string{"direction", "input, output"}},
			{"unread", kind, secret, nil},
			{"wrong", kind, "SECwrong", nil},
			{"routed", kind, secret, []string{"route", "other/way"}},
		} {
			if err := s.write(file.name, file.kind, file.secret, file.more...); err != nil {
				return err
			}
		}
		s.app.notReads["/unread"] = true
		return nil
	})
	if err != nil {
		return err
	}
	defer s.stop()
	table.row("metadata", func() (string, error) {
		response, err := s.client.Get("http://127.0.0.1:" + s.http + "/v1.0/metadata")
		if err != nil {
			return "", err
		}
		defer response.Body.Close()
		var found struct {
			Components []struct {
				Name, Type   string
				Capabilities []string
			}
		}
		if err := json.NewDecoder(response.Body).Decode(&found); err != nil {
			return "", err
		}
		var seen []string
		for _, component := range found.Components {
			seen = append(seen, fmt.Sprintf("%s: %s", component.Name, strings.Join(component.Capabilities, " ")))
		}
		text := strings.Join(seen, "\n")
		return text, contains(text, "mydingtalk: INPUT_BINDING OUTPUT_BINDING", "inputonly: INPUT_BINDING", "outputonly: OUTPUT_BINDING")
	})
	table.row("sockets: for daprd, not for others", func() (string, error) {
		found, err := os.Stat(filepath.Join(s.sockets, "dingtalk.webhook.sock"))
		if err != nil {
			return "", err
		}
		return found.Mode().String(), equal("mode", found.Mode().Perm(), 0o660)
	})
	table.row("create, the specification's call", func() (string, error) {
		answer, err := s.invoke("mydingtalk", "create", map[string]string{"message": "Hi"}, nil)
		if err != nil {
			return "", err
		}
		if err := equal("status", answer.status, 200); err != nil {
			return answer.String(), err
		}
		shown, err := s.shown()
		return fmt.Sprintf("200, Metadata.errcode: %s, shown", answer.header.Get("Metadata.errcode")),
			errorsOf(err, equal("messages shown", shown["Hi"], 1), equal("errcode", answer.header.Get("Metadata.errcode"), "0"))
	})
	table.row("create, the type's other name", func() (string, error) { return s.create("alias", "by the other name") })
	table.row("get", func() (string, error) {
		s.app.answers(func(delivery) (int, string) { return 200, `{"answered":true}` })
		defer s.app.answers(accepting)
		answer, err := s.invoke("mydingtalk", "get", text("got"), map[string]string{"colour": "red"})
		if err != nil {
			return "", err
		}
		came := s.app.received("got")
		if len(came) != 1 {
			return answer.String(), fmt.Errorf("delivered %d times", len(came))
		}
		header := came[0].header
		return fmt.Sprintf("%s, delivered to %s, colour: %s, operation: %s", answer, came[0].path, header.Get("colour"), header.Get("operation")),
			errorsOf(equal("answer", answer.body, `{"answered":true}`), equal("colour", header.Get("colour"), "red"), equal("operation", header.Get("operation"), "get"))
	})
	table.row("a person speaks, the application replies", func() (string, error) {
		s.app.answers(func(delivery) (int, string) { return 200, `{"msgtype":"text","text":{"content":"pong"}}` })
		defer s.app.answers(accepting)
		outcome, err := s.say(map[string]any{"text": "ping", "senderNick": "张三"})
		if err != nil {
			return "", err
		}
		came := s.app.received("ping")
		if len(came) != 1 || outcome.Shown == nil {
			return fmt.Sprint(outcome.statuses()), fmt.Errorf("delivered %d times, reply %s", len(came), outcome.Reply)
		}
		header := came[0].header
		return fmt.Sprintf("%v, %s: %s, shown: %q", outcome.statuses(), header.Get("sendernick"), header.Get("text"), *outcome.Shown),
			errorsOf(contains(*outcome.Shown, "pong"), equal("text", header.Get("text"), "ping"), equal("operation", header.Get("operation"), ""),
				equal("sendernick", header.Get("sendernick"), "%E5%BC%A0%E4%B8%89"))
	})
	table.row("the application replies later: reply", func() (string, error) {
		if _, err := s.say(map[string]any{"text": "later"}); err != nil {
			return "", err
		}
		came := s.app.received("later")
		if len(came) != 1 {
			return "", fmt.Errorf("delivered %d times", len(came))
		}
		var message struct{ SessionWebhook string }
		if err := json.Unmarshal(came[0].body, &message); err != nil {
			return "", err
		}
		answer, err := s.invoke("mydingtalk", "reply", text("here"), map[string]string{"sessionWebhook": message.SessionWebhook})
		if err != nil {
			return "", err
		}
		shown, err := s.shown()
		return answer.String() + ", shown", errorsOf(err, equal("status", answer.status, 200), equal("messages shown", shown["here"], 1))
	})
	table.row("a forgery", func() (string, error) {
		outcome, err := s.say(map[string]any{"text": "forged", "forge": "wrong-key"})
		return fmt.Sprintf("%v, delivered %d", outcome.statuses(), len(s.app.received("forged"))),
			errorsOf(err, equal("status", outcome.last(), 403), equal("deliveries", len(s.app.received("forged")), 0))
	})
	table.row("the application refuses twice", func() (string, error) {
		refused := 0
		s.app.answers(func(delivery) (int, string) {
			if refused++; refused <= 2 {
				return 500, "no database"
			}
			return 200, ""
		})
		defer s.app.answers(accepting)
		outcome, err := s.say(map[string]any{"text": "refused"})
		came := len(s.app.received("refused"))
		return fmt.Sprintf("%v, delivered %d", outcome.statuses(), came),
			errorsOf(err, equal("attempts", fmt.Sprint(outcome.statuses()), "[503 503 200]"), equal("deliveries", came, 3))
	})
	table.row("get, the application refuses", func() (string, error) {
		s.app.answers(func(delivery) (int, string) { return 500, "no database" })
		defer s.app.answers(accepting)
		answer, err := s.invoke("mydingtalk", "get", text("refused get"), nil)
		return answer.String(), errorsOf(err, equal("status", answer.status, 500), contains(answer.body, "status code: 500", "no database"))
	})
	table.row("a wrong secret: create", func() (string, error) {
		answer, err := s.invoke("wrong", "create", text("unsigned"), nil)
		return answer.String(), errorsOf(err, equal("status", answer.status, 500), contains(answer.body, "ERR_INVOKE_OUTPUT_BINDING",
			"error invoking output binding wrong: rpc error: code = Unknown desc = dingtalk webhook error: send msg failed. ", "errcode=310000"))
	})
	table.row("no message: create", func() (string, error) {
		answer, err := s.invoke("mydingtalk", "create", 7, nil)
		return answer.String(), errorsOf(err, equal("status", answer.status, 500), contains(answer.body, "code = InvalidArgument"))
	})
	table.row("an operation that there is not", func() (string, error) {
		answer, err := s.invoke("mydingtalk", "delete", 7, nil)
		return answer.String(), errorsOf(err, equal("status", answer.status, 500), contains(answer.body, "supported operations:create get reply"))
	})
	table.row("direction input: create", func() (string, error) {
		answer, err := s.invoke("inputonly", "create", text("x"), nil)
		return answer.String(), errorsOf(err, equal("status", answer.status, 500), contains(answer.body, "couldn't find output binding inputonly"))
	})
	spoken := func(name, component, path string) {
		table.row(name, func() (string, error) {
			if err := s.speakTo(component); err != nil {
				return "", err
			}
			return s.hears(path, name)
		})
	}
	spoken("direction input: a person speaks", "inputonly", "inputonly")
	table.row("direction output: create", func() (string, error) { return s.create("outputonly", "output only") })
	table.row("direction both: create", func() (string, error) { return s.create("both", "both ways") })
	spoken("direction both: a person speaks", "both", "both")
	spoken("a route: a person speaks", "routed", "other/way")
	refuses := func(name, component string, status int) {
		table.row(name, func() (string, error) {
			if err := s.speakTo(component); err != nil {
				return "", err
			}
			outcome, err := s.say(map[string]any{"text": name})
			came := len(s.app.received(name))
			return fmt.Sprintf("%d after %d attempts, delivered %d", outcome.last(), len(outcome.Attempts), came),
				errorsOf(err, equal("status", outcome.last(), status), equal("deliveries", came, 0))
		})
	}
	refuses("direction output: a person speaks", "outputonly", 404)
	refuses("the application does not read: a person speaks", "unread", 503)
	refuses("a wrong secret: a person speaks", "wrong", 403)
	refuses("no such component: a person speaks", "nobody", 503)
	return nil
}

// The application and daprd go and come back.
func restarts(table *rows, programs paths) error {
	s, err := staged(programs, "restarts", (*stage).specification)
	if err != nil {
		return err
	}
	defer s.stop()
	table.row("at first", func() (string, error) { return s.works("at first") })
	// Says something while somebody is away, and brings them back meanwhile.
	meanwhile := func(name, words string, back func() error) {
		table.row(name, func() (string, error) {
			said := make(chan outcome, 1)
			failed := make(chan error, 1)
			go func() {
				outcome, err := s.say(map[string]any{"text": words})
				failed <- err
				said <- outcome
			}()
			// At least one attempt finds nobody.
			if err := eventually(patience, "the first attempt is refused", func() bool { return s.refusals() > 0 }); err != nil {
				return "", err
			}
			if err := back(); err != nil {
				return "", err
			}
			err, outcome := <-failed, <-said
			came := len(s.app.received(words))
			return fmt.Sprintf("%v, delivered %d", outcome.statuses(), came),
				errorsOf(err, equal("status", outcome.last(), 200), equal("deliveries", came, 1))
		})
	}
	s.app.close()
	meanwhile("the application is away and comes back", "away", s.app.open)
	table.row("after that", func() (string, error) { return s.works("application is back") })
	s.daprd.Stop()
	meanwhile("daprd is stopped and started", "daprd stopped", func() error { return s.startDaprd() })
	table.row("after that", func() (string, error) { return s.works("daprd is back") })
	table.row("daprd is killed during a delivery", func() (string, error) {
		arrived := make(chan struct{}, 8)
		s.app.answers(func(delivery) (int, string) {
			arrived <- struct{}{}
			time.Sleep(500 * time.Millisecond)
			return 200, ""
		})
		defer s.app.answers(accepting)
		said, failed := make(chan outcome, 1), make(chan error, 1)
		go func() {
			outcome, err := s.say(map[string]any{"text": "killed meanwhile"})
			failed <- err
			said <- outcome
		}()
		<-arrived
		s.daprd.Kill()
		if err := s.startDaprd(); err != nil {
			return "", err
		}
		err, outcome := <-failed, <-said
		came := len(s.app.received("killed meanwhile"))
		return fmt.Sprintf("%v, delivered %d", outcome.statuses(), came),
			errorsOf(err, equal("first status", outcome.statuses()[0], 503), equal("status", outcome.last(), 200), equal("deliveries", came, 2))
	})
	table.row("after that", func() (string, error) { return s.works("daprd is back again") })
	table.row("stopped, the component takes its sockets away", func() (string, error) {
		s.component.Stop()
		left, err := os.ReadDir(s.sockets)
		return fmt.Sprintf("%d files left", len(left)), errorsOf(err, equal("files left", len(left), 0))
	})
	return nil
}

// Callbacks that were not taken, as the simulator counts attempts beyond the first.
func (s *stage) refusals() int {
	response, err := s.client.Get(s.group + "/stats")
	if err != nil {
		return 0
	}
	defer response.Body.Close()
	var stats struct{ Callbacks, CallbackAttempts int }
	if json.NewDecoder(response.Body).Decode(&stats) != nil {
		return 0
	}
	return stats.CallbackAttempts - stats.Callbacks
}

// Component files change while daprd runs.
func reloads(table *rows, programs paths) error {
	s, err := staged(programs, "reloads", (*stage).specification)
	if err != nil {
		return err
	}
	defer s.stop()
	table.row("at first", func() (string, error) { return s.works("at first") })
	updated := func(n int) error {
		return eventually(patience, fmt.Sprintf("daprd has taken over %d changes:\n%s", n, tail(s.daprd.Log())), func() bool {
			return strings.Count(s.daprd.Log(), "Component updated: ") >= n
		})
	}
	table.row("a wrong secret, during a delivery", func() (string, error) {
		arrived, leave := make(chan struct{}, 8), make(chan struct{})
		s.app.answers(func(delivery) (int, string) {
			arrived <- struct{}{}
			<-leave
			return 200, ""
		})
		defer s.app.answers(accepting)
		said := make(chan outcome, 1)
		go func() {
			outcome, _ := s.say(map[string]any{"text": "during a change"})
			said <- outcome
		}()
		<-arrived
		if err := s.write("mydingtalk", kind, "SECwrong"); err != nil {
			return "", err
		}
		// daprd waits for the delivery before it closes the component.
		time.Sleep(500 * time.Millisecond)
		close(leave)
		outcome := <-said
		if err := updated(1); err != nil {
			return "", err
		}
		// daprd says so before it has initialised the component.
		var found answer
		err := eventually(patience, "create uses the new secret", func() bool {
			found, _ = s.invoke("mydingtalk", "create", text("wrong secret"), nil)
			return strings.Contains(found.body, "errcode=310000")
		})
		return fmt.Sprintf("the delivery: %v; then create: %d, errcode=310000", outcome.statuses(), found.status),
			errorsOf(err, equal("status of the delivery", outcome.statuses()[0], 200), equal("status", found.status, 500))
	})
	table.row("the right secret again", func() (string, error) {
		if err := s.specification(); err != nil {
			return "", err
		}
		if err := errorsOf(updated(2), s.answers("mydingtalk")); err != nil {
			return "", err
		}
		return s.works("right again")
	})
	table.row("another file is added", func() (string, error) {
		if err := s.write("another", kind, secret); err != nil {
			return "", err
		}
		if err := errorsOf(updated(3), s.answers("another")); err != nil {
			return "", err
		}
		if seen, err := s.create("another", "from another"); err != nil {
			return seen, err
		}
		if err := s.speakTo("another"); err != nil {
			return "", err
		}
		return s.hears("another", "to another")
	})
	table.row("and removed", func() (string, error) {
		if err := os.Remove(s.file("another")); err != nil {
			return "", err
		}
		var found answer
		err := eventually(patience, "create does not find it", func() bool {
			found, _ = s.invoke("another", "create", text("removed"), nil)
			return strings.Contains(found.body, "couldn't find output binding another")
		})
		if err != nil {
			return found.String(), err
		}
		outcome, err := s.say(map[string]any{"text": "to nobody"})
		return fmt.Sprintf("create: %d couldn't find; a person speaks: %d", found.status, outcome.last()),
			errorsOf(err, equal("status", outcome.last(), 503), equal("deliveries", len(s.app.received("to nobody")), 0))
	})
	table.row("the first works on", func() (string, error) {
		if err := s.speakTo("mydingtalk"); err != nil {
			return "", err
		}
		return s.works("the first works on")
	})
	return nil
}

// The component's process is killed and started again. daprd does not come back by itself.
func killed(table *rows, programs paths) error {
	inbox := []string{"--inbox", filepath.Join(programs.folder, "killed", "inbox")}
	s, err := staged(programs, "killed", (*stage).specification, inbox...)
	if err != nil {
		return err
	}
	defer s.stop()
	table.row("at first", func() (string, error) { return s.works("at first") })
	table.row("killed, with a message in the inbox", func() (string, error) {
		s.app.close()
		outcome, err := s.say(map[string]any{"text": "kept"})
		if err != nil || outcome.last() != 200 {
			return fmt.Sprint(outcome.statuses()), fmt.Errorf("not acknowledged: %w", err)
		}
		s.component.Kill()
		answer, err := s.invoke("mydingtalk", "create", text("nobody there"), nil)
		left, _ := os.ReadDir(s.sockets)
		return fmt.Sprintf("acknowledged; create: %s; %d sockets left", answer, len(left)),
			errorsOf(err, equal("status", answer.status, 500), contains(answer.body, "code = Unavailable"), equal("sockets left", len(left), 2), s.app.open())
	})
	table.row("started again: create", func() (string, error) {
		if err := s.startComponent(inbox...); err != nil {
			return "", err
		}
		var found answer
		// gRPC connects again in its own time.
		err := eventually(patience, "daprd is connected again", func() bool {
			found, _ = s.invoke("mydingtalk", "create", text("not initialised"), nil)
			return !strings.Contains(found.body, "code = Unavailable")
		})
		return found.String(), errorsOf(err, equal("status", found.status, 500), contains(found.body, "code = FailedPrecondition", "restart daprd"))
	})
	table.row("started again: a person speaks", func() (string, error) {
		outcome, err := s.say(map[string]any{"text": "unknown"})
		return fmt.Sprintf("%d after %d attempts, delivered %d; the inbox keeps the other message", outcome.last(), len(outcome.Attempts), len(s.app.received("kept"))),
			errorsOf(err, equal("status", outcome.last(), 503), equal("deliveries", len(s.app.received("unknown")), 0), equal("deliveries", len(s.app.received("kept")), 0))
	})
	kept := func() error {
		return eventually(patience, "the inbox delivers what it kept", func() bool { return len(s.app.received("kept")) > 0 })
	}
	table.row("then daprd is restarted", func() (string, error) {
		s.daprd.Stop()
		if err := s.startDaprd(); err != nil {
			return "", err
		}
		if err := kept(); err != nil {
			return tail(s.component.Log()), err
		}
		seen, err := s.works("daprd restarted")
		return seen + ", and what the inbox kept", err
	})
	again := func(name, words string, mend func() error) {
		table.row(name, func() (string, error) {
			s.component.Kill()
			if err := s.startComponent(inbox...); err != nil {
				return "", err
			}
			if err := mend(); err != nil {
				return "", err
			}
			if err := s.answers("mydingtalk"); err != nil {
				return "", err
			}
			return s.works(words)
		})
	}
	again("or: daprd gets SIGHUP", "hangup", func() error {
		s.daprd.Signal(syscall.SIGHUP)
		return nil
	})
	again("or: the component file gets another property", "touched", func() error {
		return s.write("mydingtalk", kind, secret, "reloaded", "1")
	})
	table.row("daprd starts while sockets are dead", func() (string, error) {
		s.daprd.Stop()
		s.component.Kill()
		if err := s.launchDaprd(); err != nil {
			return "", err
		}
		if s.daprd.EndsWithin(3 * time.Second) {
			return tail(s.daprd.Log()), fmt.Errorf("daprd has ended")
		}
		client := *s.client
		client.Timeout = time.Second
		response, err := client.Get("http://127.0.0.1:" + s.http + "/v1.0/healthz/outbound")
		if err == nil {
			response.Body.Close()
			return "", fmt.Errorf("it answers, with %d", response.StatusCode)
		}
		if err := s.startComponent(inbox...); err != nil {
			return "", err
		}
		ready, err := s.daprd.Ready("127.0.0.1:" + s.http)
		if err != nil || !ready {
			return tail(s.daprd.Log()), fmt.Errorf("it does not start: %w", err)
		}
		seen, err := s.works("dead sockets")
		return "it waits, and starts with the component: " + seen, err
	})
	return nil
}

// Dapr's own binding is compiled in, and the component takes its place: it answers `reply`, which Dapr's has not, and posts
// without the headers of Go's client.
func builtin(table *rows, programs paths) error {
	s, err := newStage(programs, "builtin")
	if err != nil {
		return err
	}
	defer s.stop()
	s.program = programs.builtin
	robot, err := support.Record(recording())
	if err != nil {
		return err
	}
	defer robot.Close()
	s.group = "http://" + robot.Address
	if err := s.specification(); err != nil {
		return err
	}
	look := func(operations, agent string) func() (string, error) {
		return func() (string, error) {
			answer, err := s.invoke("mydingtalk", "create", text("who"), nil)
			if err != nil || answer.status != 200 {
				return answer.String(), fmt.Errorf("create: %w", err)
			}
			posts := robot.Take("robot")
			if len(posts) != 1 {
				return "", fmt.Errorf("%d posts", len(posts))
			}
			unknown, err := s.invoke("mydingtalk", "delete", text("who"), nil)
			seen := fmt.Sprintf("operations: %s; User-Agent of its post: %q; Metadata.errcode: %q",
				after(unknown.body, "supported operations:"), posts[0].Header.Get("User-Agent"), answer.header.Get("Metadata.errcode"))
			return seen, errorsOf(err, contains(unknown.body, operations), equal("User-Agent", posts[0].Header.Get("User-Agent"), agent))
		}
	}
	if err := s.startDaprd(); err != nil {
		return err
	}
	table.row("without our socket: Dapr's binding", look("operations:create get\"", "Go-http-client/1.1"))
	s.daprd.Stop()
	if err := s.startComponent(); err != nil {
		return err
	}
	if err := s.startDaprd(); err != nil {
		return err
	}
	table.row("with it: ours, nothing else changed", look("operations:create get reply\"", ""))
	return nil
}

// Waits until this component sends again.
func (s *stage) answers(name string) error {
	return eventually(patience, "create answers 200", func() bool {
		found, err := s.invoke(name, "create", text("are you there?"), nil)
		return err == nil && found.status == 200
	})
}

func after(text, mark string) string {
	_, rest, _ := strings.Cut(text, mark)
	return strings.TrimRight(rest, "\"}\n")
}

package main

import (
	"context"
	"encoding/json"
	"fmt"
	"net"
	"os/exec"
	"strings"
	"sync"

	runtime "github.com/dapr/dapr/pkg/proto/runtime/v1"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/emptypb"

	"dapr-tests/support"
)

// An application behind daprd that speaks gRPC.
type grpcApplication struct {
	runtime.UnimplementedAppCallbackServer
	port   string
	reads  []string
	mutex  sync.Mutex
	server *grpc.Server
	seen   []*runtime.BindingEventRequest
	answer func(*runtime.BindingEventRequest) (*runtime.BindingEventResponse, error)
}

func (a *grpcApplication) open() error {
	listener, err := net.Listen("tcp", "127.0.0.1:"+a.port)
	if err != nil {
		return err
	}
	server := grpc.NewServer()
	runtime.RegisterAppCallbackServer(server, a)
	a.server = server
	go server.Serve(listener)
	return nil
}

func (a *grpcApplication) close() { a.server.Stop() }

func (a *grpcApplication) ListInputBindings(context.Context, *emptypb.Empty) (*runtime.ListInputBindingsResponse, error) {
	return &runtime.ListInputBindingsResponse{Bindings: a.reads}, nil
}

func (a *grpcApplication) OnBindingEvent(_ context.Context, event *runtime.BindingEventRequest) (*runtime.BindingEventResponse, error) {
	a.mutex.Lock()
	a.seen = append(a.seen, event)
	answer := a.answer
	a.mutex.Unlock()
	if answer == nil {
		return &runtime.BindingEventResponse{}, nil
	}
	return answer(event)
}

// From now on it answers so; with nil it has nothing to say.
func (a *grpcApplication) answers(answer func(*runtime.BindingEventRequest) (*runtime.BindingEventResponse, error)) {
	a.mutex.Lock()
	defer a.mutex.Unlock()
	a.answer = answer
}

func (a *grpcApplication) says(response *runtime.BindingEventResponse) {
	a.answers(func(*runtime.BindingEventRequest) (*runtime.BindingEventResponse, error) { return response, nil })
}

// What came with this text.
func (a *grpcApplication) received(text string) []*runtime.BindingEventRequest {
	a.mutex.Lock()
	defer a.mutex.Unlock()
	var found []*runtime.BindingEventRequest
	for _, event := range a.seen {
		if (delivery{body: event.GetData()}).text() == text {
			found = append(found, event)
		}
	}
	return found
}

// The application speaks gRPC with daprd (`--app-protocol grpc`).
func speaksGRPC(table *rows, programs paths) error {
	s, err := newStage(programs, "grpc")
	if err != nil {
		return err
	}
	defer s.stop()
	ports, err := support.Ports(1)
	if err != nil {
		return err
	}
	app := &grpcApplication{port: ports[0], reads: []string{"mydingtalk"}}
	for _, step := range []func() error{
		app.open,
		func() error { return s.startGroup("mydingtalk") },
		func() error { return s.write("mydingtalk", kind, secret, "sessionWebhookHosts", s.group) },
		func() error { return s.write("other", kind, secret) },
		func() error { return s.startComponent("--inbox", s.inbox) },
		func() error { return s.startDaprd("--app-protocol", "grpc", "--app-port", app.port) },
	} {
		if err := step(); err != nil {
			return err
		}
	}
	defer func() { app.close() }()
	table.row("create", func() (string, error) { return s.create("mydingtalk", "from a gRPC application") })
	table.row("get", func() (string, error) {
		app.says(&runtime.BindingEventResponse{Data: []byte(`{"answered" : 1.0}`)})
		answer, err := s.invoke("mydingtalk", "get", text("got"), map[string]string{"colour": "red"})
		if err != nil {
			return "", err
		}
		came := app.received("got")
		if len(came) != 1 {
			return answer.String(), fmt.Errorf("delivered %d times", len(came))
		}
		metadata := came[0].GetMetadata()
		return fmt.Sprintf("%s, delivered as %s, colour: %s, operation: %s", answer, came[0].GetName(), metadata["colour"], metadata["operation"]),
			errorsOf(equal("answer", answer.body, `{"answered" : 1.0}`), equal("name", came[0].GetName(), "mydingtalk"),
				equal("colour", metadata["colour"], "red"), equal("operation", metadata["operation"], "get"))
	})
	table.row("a person speaks, the application replies", func() (string, error) {
		app.says(&runtime.BindingEventResponse{Data: []byte(`{"msgtype":"text","text":{"content":"pong"}}`)})
		outcome, err := s.say(map[string]any{"text": "ping", "senderNick": "张三"})
		if err != nil {
			return "", err
		}
		came := app.received("ping")
		if len(came) != 1 || outcome.Shown == nil {
			return fmt.Sprint(outcome.statuses()), fmt.Errorf("delivered %d times, reply %s", len(came), outcome.Reply)
		}
		var body struct{ MsgId, SenderNick string }
		if err := json.Unmarshal(came[0].GetData(), &body); err != nil {
			return string(came[0].GetData()), err
		}
		metadata := came[0].GetMetadata()
		return fmt.Sprintf("%v, %s: %s, shown: %q", outcome.statuses(), metadata["sendernick"], metadata["text"], *outcome.Shown),
			errorsOf(contains(*outcome.Shown, "pong"), equal("text", metadata["text"], "ping"), equal("senderNick", body.SenderNick, "张三"),
				equal("msgid", metadata["msgid"], body.MsgId), equal("sendernick", metadata["sendernick"], "%E5%BC%A0%E4%B8%89"))
	})
	table.row("data for another binding, in order", func() (string, error) {
		data, _ := json.Marshal(text("sent on"))
		app.says(&runtime.BindingEventResponse{To: []string{"other", "none", "mydingtalk"}, Data: data})
		outcome, err := s.say(map[string]any{"text": "send it on"})
		if err != nil {
			return "", err
		}
		err = eventually(patience, "daprd says that there is no such binding", func() bool {
			return strings.Contains(s.daprd.Log(), "couldn't find output binding none")
		})
		shown, other := s.shown()
		return fmt.Sprintf("%v, shown %d times", outcome.statuses(), shown["sent on"]),
			// Once by daprd, and once as the reply that it is: daprd acknowledges with it.
			errorsOf(err, other, equal("status", outcome.last(), 200), equal("messages shown", shown["sent on"], 2))
	})
	refuses := func(words string, code codes.Code, times int) func() (outcome, error) {
		return func() (outcome, error) {
			refused := 0
			app.answers(func(*runtime.BindingEventRequest) (*runtime.BindingEventResponse, error) {
				if refused++; refused <= times {
					return nil, status.Error(code, "no database")
				}
				return &runtime.BindingEventResponse{}, nil
			})
			return s.say(map[string]any{"text": words})
		}
	}
	table.row("it fails twice", func() (string, error) {
		outcome, err := refuses("failed twice", codes.Internal, 2)()
		if err == nil {
			err = eventually(patience, "the inbox delivers it again", func() bool { return len(app.received("failed twice")) == 3 })
		}
		return fmt.Sprintf("%v, delivered %d", outcome.statuses(), len(app.received("failed twice"))), errorsOf(err, equal("status", outcome.last(), 200))
	})
	table.row("it refuses for good", func() (string, error) {
		outcome, err := refuses("refused", codes.InvalidArgument, 1_000)()
		if err != nil {
			return "", err
		}
		listed := ""
		err = eventually(patience, "it is in the list of the dead", func() bool {
			output, _ := exec.Command(s.host, "inbox", "list", "--inbox", s.inbox).CombinedOutput()
			listed = string(output)
			return strings.Contains(listed, "dead")
		})
		return fmt.Sprintf("%v, delivered %d\n%s", outcome.statuses(), len(app.received("refused")), strings.TrimSpace(listed)),
			errorsOf(err, equal("status", outcome.last(), 200), equal("deliveries", len(app.received("refused")), 1),
				contains(listed, "rpc error: code = InvalidArgument desc = no database"))
	})
	table.row("get, the application refuses", func() (string, error) {
		app.answers(func(*runtime.BindingEventRequest) (*runtime.BindingEventResponse, error) {
			return nil, status.Error(codes.NotFound, "no such thing")
		})
		answer, err := s.invoke("mydingtalk", "get", text("refused get"), nil)
		return answer.String(), errorsOf(err, equal("status", answer.status, 500),
			contains(answer.body, "error invoking app: rpc error: code = NotFound desc = no such thing"))
	})
	app.answers(nil)
	table.row("it is away and comes back", func() (string, error) {
		app.close()
		outcome, err := s.say(map[string]any{"text": "away"})
		if err != nil {
			return "", err
		}
		if err := eventually(patience, "the component hears of it", func() bool { return strings.Contains(s.component.Log(), "code = Unavailable") }); err != nil {
			return tail(s.component.Log()), err
		}
		if err := app.open(); err != nil {
			return "", err
		}
		err = eventually(patience, "it is delivered", func() bool { return len(app.received("away")) == 1 })
		return fmt.Sprintf("%v, delivered %d", outcome.statuses(), len(app.received("away"))), errorsOf(err, equal("status", outcome.last(), 200))
	})
	table.row("a binding that it does not name", func() (string, error) {
		if err := s.speakTo("other"); err != nil {
			return "", err
		}
		outcome, err := s.say(map[string]any{"text": "unnamed"})
		if err == nil {
			err = eventually(patience, "the component says why", func() bool { return strings.Contains(s.component.Log(), "no Read stream open") })
		}
		return fmt.Sprintf("%v, delivered %d", outcome.statuses(), len(app.received("unnamed"))),
			errorsOf(err, equal("status", outcome.last(), 200), equal("deliveries", len(app.received("unnamed")), 0))
	})
	return nil
}

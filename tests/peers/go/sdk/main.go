// Dapr's own SDK beside `dingtalk-host serve`: it sends over gRPC, receives what a person says, and answers it.
package main

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"log"
	"net/http"
	"os"
	"strings"
	"time"

	pb "github.com/dapr/dapr/pkg/proto/runtime/v1"
	"github.com/dapr/go-sdk/client"
	"github.com/dapr/go-sdk/service/common"
	daprd "github.com/dapr/go-sdk/service/grpc"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/encoding/gzip"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
)

var web = http.Client{Timeout: 30 * time.Second}

func must(err error) {
	if err != nil {
		log.Fatal(err)
	}
}

// What the simulator answers.
func ask(method, path string, body, into any) {
	written, err := json.Marshal(body)
	must(err)
	request, err := http.NewRequest(method, os.Getenv("ROBOT_BASE")+path, bytes.NewReader(written))
	must(err)
	answer, err := web.Do(request)
	must(err)
	defer answer.Body.Close()
	if into != nil {
		must(json.NewDecoder(answer.Body).Decode(into))
	}
}

type message struct {
	Msgtype string
	Signed  bool
	Message struct{ Text struct{ Content string } }
}

func last() message {
	var messages []message
	ask("GET", "/messages", nil, &messages)
	return messages[len(messages)-1]
}

func check(name, expected, got string) {
	verdict := "ok"
	if got != expected {
		verdict = "FAILED, expected " + expected
	}
	fmt.Println(strings.Join([]string{verdict, "go-sdk", name, got}, "\t"))
}

func main() {
	// Standard output is the table's.
	client.SetLogger(log.New(os.Stderr, "", 0))
	secret := os.Getenv("ROBOT_SECRET")
	received := make(chan *common.BindingEvent, 8)
	service, err := daprd.NewService("127.0.0.1:" + os.Getenv("APP_PORT"))
	must(err)
	must(service.AddBindingInvocationHandler("robot", func(_ context.Context, event *common.BindingEvent) ([]byte, error) {
		received <- event
		return []byte(`{"msgtype":"text","text":{"content":"from Go"}}`), nil
	}))
	go func() { must(service.Start()) }()

	dapr, err := client.NewClient()
	must(err)
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	invoke := func(operation, data string, metadata map[string]string) (*client.BindingEvent, error) {
		return dapr.InvokeBinding(ctx, &client.InvokeBindingRequest{
			Name: "robot", Operation: operation, Data: []byte(data), Metadata: metadata,
		})
	}

	answer, err := invoke("create", `{"msgtype":"text","text":{"content":"from the SDK"}}`, nil)
	must(err)
	expected, got := "from the SDK", last().Message.Text.Content
	if secret != "" {
		expected += " signed"
	}
	if last().Signed {
		got += " signed"
	}
	check("create, an object", expected, got)
	check("create, its metadata", "0", answer.Metadata["errcode"])
	_, err = invoke("create", "short", map[string]string{"msgtype": "markdown", "title": "title"})
	must(err)
	check("create, with metadata", "markdown", last().Msgtype)
	// With the token of the SDK, and compressed.
	sidecar := dapr.GrpcClient()
	withToken := metadata.AppendToOutgoingContext(ctx, "dapr-api-token", os.Getenv("DAPR_API_TOKEN"))
	compressed := func(content string) error {
		_, err := sidecar.InvokeBinding(withToken, &pb.InvokeBindingRequest{
			Name: "robot", Operation: "create", Data: []byte(`{"msgtype":"text","text":{"content":"` + content + `"}}`),
		}, grpc.UseCompressor(gzip.Name))
		return err
	}
	must(compressed("compressed"))
	check("create, compressed with gzip", "compressed", last().Message.Text.Content)
	check("create, a bomb", "ResourceExhausted", status.Code(compressed(strings.Repeat(" ", 64<<20))).String())
	_, err = invoke("create", `{"msgtype":"file"}`, nil)
	got = "taken"
	if err != nil {
		got = err.Error()
		if status.Code(err) == codes.Internal && strings.Contains(got, "400105") {
			got = "Internal 400105"
		}
	}
	check("create, refused by the robot", "Internal 400105", got)

	answer, err = invoke("get", "\x00\xff", nil)
	must(err)
	check("get, bytes", "\"\\x00\\xff\"", fmt.Sprintf("%q", (<-received).Data))
	check("get, the answer", `{"msgtype":"text","text":{"content":"from Go"}}`, string(answer.Data))
	if secret == "" {
		return
	}
	url := "http://127.0.0.1:" + os.Getenv("DAPR_HTTP_PORT") + "/v1.0/bindings/robot/callback"
	ask("PUT", "/callback-url", map[string]string{"url": url}, nil)
	var said struct {
		Attempts []struct{ Status int }
		Reply    struct{ Text struct{ Content string } }
	}
	ask("POST", "/say", map[string]string{"text": "hello"}, &said)
	check("what a person says, acknowledged", "200", fmt.Sprint(said.Attempts[len(said.Attempts)-1].Status))
	var event message
	must(json.Unmarshal((<-received).Data, &event.Message))
	check("what a person says, received", "hello", strings.TrimSpace(event.Message.Text.Content))
	check("what a person says, answered", "from Go", said.Reply.Text.Content)
}

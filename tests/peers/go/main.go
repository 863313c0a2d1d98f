// Dapr's own binding, as daprd runs it, sending to the simulator.
package main

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"os"
	"strings"
	"time"

	"github.com/dapr/components-contrib/bindings"
	"github.com/dapr/components-contrib/bindings/alicloud/dingtalk/webhook"
	"github.com/dapr/components-contrib/metadata"
	"github.com/dapr/kit/logger"
)

var client = http.Client{Timeout: 10 * time.Second}

func get(path string, into any) {
	answer, err := client.Get(os.Getenv("ROBOT_BASE") + path)
	if err == nil {
		defer answer.Body.Close()
		err = json.NewDecoder(answer.Body).Decode(into)
	}
	if err != nil {
		panic(err)
	}
}

type stats struct {
	Accepted int
	Rejected map[string]int
}

// What the group saw, or the code with which the robot refused: the binding drops the code.
func check(name, expected string, send func() error) {
	var before, after stats
	get("/stats", &before)
	err := send()
	get("/stats", &after)
	got := "nothing"
	if after.Accepted == before.Accepted+1 {
		var messages []struct {
			Msgtype string
			Signed  bool
		}
		get("/messages", &messages)
		got = messages[len(messages)-1].Msgtype
		if messages[len(messages)-1].Signed {
			got += " signed"
		}
		if err != nil {
			got += ", reported as " + err.Error()
		}
	}
	for code, n := range after.Rejected {
		if n != before.Rejected[code] {
			got = "refused " + code
			if err == nil {
				got += ", reported as success"
			}
		}
	}
	verdict := "ok"
	if got != expected {
		verdict = "FAILED, expected " + expected
	}
	fmt.Println(strings.Join([]string{verdict, "dapr's binding", name, got}, "\t"))
}

func main() {
	secret := os.Getenv("ROBOT_SECRET")
	properties := map[string]string{
		"id":     "peer",
		"url":    os.Getenv("ROBOT_BASE") + "/robot/send?access_token=" + os.Getenv("ROBOT_TOKEN"),
		"secret": secret,
	}
	binding := webhook.NewDingTalkWebhook(logger.NewLogger("peer"))
	if err := binding.Init(context.Background(), bindings.Metadata{Base: metadata.Base{Properties: properties}}); err != nil {
		panic(err)
	}
	signed := ""
	if secret != "" {
		signed = " signed"
	}
	for _, test := range [][3]string{
		{"text", "text" + signed, `{"msgtype":"text","text":{"content":"hello"}}`},
		{"link", "link" + signed, `{"msgtype":"link","link":{"title":"t","text":"x","messageUrl":"https://example.com/"}}`},
		{"markdown", "markdown" + signed, `{"msgtype":"markdown","markdown":{"title":"t","text":"# x"},"at":{"isAtAll":true}}`},
		{"action card", "actionCard" + signed, `{"msgtype":"actionCard","actionCard":{"title":"t","text":"x","btnOrientation":"","singleTitle":"open","singleURL":"https://example.com/","btns":null}}`},
		{"feed card", "feedCard" + signed, `{"msgtype":"feedCard","feedCard":{"links":[{"title":"t","messageURL":"https://example.com/","picURL":"https://example.com/p.png"}]}}`},
		{"no JSON", "refused 40035", "hello"},
	} {
		check(test[0], test[1], func() error {
			request := bindings.InvokeRequest{Operation: bindings.CreateOperation, Data: []byte(test[2])}
			_, err := binding.Invoke(context.Background(), &request)
			return err
		})
	}
}

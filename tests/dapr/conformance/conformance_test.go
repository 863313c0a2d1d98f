// Dapr's own conformance tests of bindings, against the component's socket.
package conformance

import (
	"context"
	"os"
	"testing"

	contrib "github.com/dapr/components-contrib/bindings"
	conformance "github.com/dapr/components-contrib/tests/conformance/bindings"
	"github.com/dapr/dapr/pkg/components/bindings"
	"github.com/dapr/kit/logger"
)

// Each profile has a component of its own: what they test with has no name, and so is one instance.
func TestConformance(t *testing.T) {
	for _, profile := range []struct {
		name       string
		operations []string
	}{
		// Both `create` and `get` would mean that `get` answers with what was sent: a store, not a robot.
		{"create", []string{"create", "operations"}},
		{"get", []string{"get", "operations", "read"}},
	} {
		t.Run(profile.name, func(t *testing.T) {
			config, err := conformance.NewTestConfig("dingtalk.webhook", profile.operations, map[string]any{
				"outputData": `{"msgtype":"text","text":{"content":"conformance, ` + profile.name + `"}}`,
			})
			if err != nil {
				t.Fatal(err)
			}
			properties := map[string]string{"id": "conformance", "url": os.Getenv("ROBOT_URL"), "secret": os.Getenv("ROBOT_SECRET")}
			socket, log := os.Getenv("SOCKET"), logger.NewLogger("conformance")
			conformance.ConformanceTests(t, properties, &input{bindings.NewGRPCInputBinding(log, socket), func() {}}, bindings.NewGRPCOutputBinding(log, socket), config)
		})
	}
}

// Dapr's side of the stream, which `Close` waits for and does not end. daprd ends it before; the tests do not.
type input struct {
	contrib.InputBinding
	end context.CancelFunc
}

func (i *input) Read(ctx context.Context, handler contrib.Handler) error {
	ctx, i.end = context.WithCancel(ctx)
	return i.InputBinding.Read(ctx, handler)
}

func (i *input) Close() error {
	i.end()
	return i.InputBinding.Close()
}

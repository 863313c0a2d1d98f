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
	"slices"
	"strings"

	"dapr-tests/support"
)

// The example of the W3C's text.
const (
	tracedBy = "4bf92f3577b34da6a3ce929d0e0e4736"
	parent   = "00f067aa0ba902b7"
)

// A span as the collector has written it.
type span struct {
	Service, Scope                      string
	TraceID, SpanID, ParentSpanID, Name string
	Kind                                int
	attributes                          map[string]string
	failure                             string
}

type pair struct {
	Key   string
	Value struct {
		StringValue *string
		IntValue    json.RawMessage
	}
}

func pairs(all []pair) map[string]string {
	found := map[string]string{}
	for _, one := range all {
		if one.Value.StringValue != nil {
			found[one.Key] = *one.Value.StringValue
		} else {
			found[one.Key] = strings.Trim(string(one.Value.IntValue), `"`)
		}
	}
	return found
}

// An OpenTelemetry Collector, and the file that it writes.
type collector struct {
	process    *support.Process
	grpc, http string
	file       string
}

func startCollector(programs paths) (*collector, error) {
	folder := filepath.Join(programs.folder, "collector")
	if err := errors.Join(os.RemoveAll(folder), os.MkdirAll(folder, 0o700)); err != nil {
		return nil, err
	}
	ports, err := support.Ports(2)
	if err != nil {
		return nil, err
	}
	c := &collector{grpc: "127.0.0.1:" + ports[0], http: "127.0.0.1:" + ports[1], file: filepath.Join(folder, "spans.json")}
	configuration := filepath.Join(folder, "collector.yaml")
	text := fmt.Sprintf(`receivers:
  otlp:
    protocols:
      grpc: {endpoint: %q}
      http: {endpoint: %q}
exporters:
  file: {path: %q, flush_interval: 100ms}
service:
  telemetry: {metrics: {level: none}}
  pipelines:
    traces: {receivers: [otlp], exporters: [file]}
`, c.grpc, c.http, c.file)
	if err := os.WriteFile(configuration, []byte(text), 0o600); err != nil {
		return nil, err
	}
	if c.process, err = support.Start("collector", nil, programs.collector, "--config", configuration); err != nil {
		return nil, err
	}
	err = eventually(patience, "the collector is ready", func() bool {
		return c.process.HasEnded() || strings.Contains(c.process.Log(), "Everything is ready")
	})
	if err != nil || c.process.HasEnded() {
		return nil, fmt.Errorf("the collector does not start: %w\n%s", err, c.process.Log())
	}
	return c, nil
}

// All that it has been sent by this service in this trace.
func (c *collector) spans(service, trace string) []span {
	text, _ := os.ReadFile(c.file)
	var found []span
	for line := range bytes.Lines(text) {
		var batch struct {
			ResourceSpans []struct {
				Resource   struct{ Attributes []pair }
				ScopeSpans []struct {
					Scope struct{ Name string }
					Spans []struct {
						span
						Attributes []pair
						Status     struct {
							Code    int
							Message string
						}
					}
				}
			}
		}
		if json.Unmarshal(line, &batch) != nil {
			continue
		}
		for _, resource := range batch.ResourceSpans {
			for _, scope := range resource.ScopeSpans {
				for _, one := range scope.Spans {
					one.Service, one.Scope = pairs(resource.Resource.Attributes)["service.name"], scope.Scope.Name
					one.span.attributes = pairs(one.Attributes)
					if one.Status.Code == 2 {
						one.failure = one.Status.Message
					}
					if one.Service == service && one.TraceID == trace {
						found = append(found, one.span)
					}
				}
			}
		}
	}
	return found
}

// Waits until the collector has this of it.
func (c *collector) wait(service, trace string, names ...string) (map[string]span, error) {
	found := map[string]span{}
	err := eventually(patience, fmt.Sprintf("the collector has %v of %s", names, service), func() bool {
		clear(found)
		for _, one := range c.spans(service, trace) {
			found[one.Name] = one
		}
		return !slices.ContainsFunc(names, func(name string) bool { return found[name].SpanID == "" })
	})
	if err != nil {
		err = fmt.Errorf("%w\n%v\n%s", err, c.spans(service, trace), c.process.Log())
	}
	return found, err
}

// The real Collector is sent spans by the host, by daprd with its own binding, and by daprd with the component, of the same
// calls and with the same configuration. What daprd says, the host has to say too.
func traces(programs paths) bool {
	table := &rows{}
	for _, protocol := range []string{"grpc", "http"} {
		table.world = "by " + protocol
		if err := traced(table, programs, protocol); err != nil {
			table.row("runs to its end", func() (string, error) { return "", err })
		}
	}
	return table.summary()
}

// One of the three.
type tracer struct {
	*stage
	service string
}

func traced(table *rows, programs paths, protocol string) error {
	collector, err := startCollector(programs)
	if err != nil {
		return err
	}
	defer collector.process.Stop()
	endpoint := map[string]string{"grpc": collector.grpc, "http": collector.http}[protocol]
	ours, err := startTraced(programs, "serve", protocol, endpoint)
	if err != nil {
		return err
	}
	defer ours.stop()
	builtin, err := startTraced(programs, "builtin", protocol, endpoint)
	if err != nil {
		return err
	}
	defer builtin.stop()
	beside, err := startTraced(programs, "pluggable", protocol, endpoint)
	if err != nil {
		return err
	}
	defer beside.stop()
	const api = "/v1.0/bindings/mydingtalk"
	// What both say of one call, and what either says alone.
	compared := func(of, than span, known ...string) (string, error) {
		var wrong []error
		for name, value := range than.attributes {
			if of.attributes[name] != value && !slices.Contains(known, name) {
				wrong = append(wrong, fmt.Errorf("%s: daprd has %q, the host %q", name, value, of.attributes[name]))
			}
		}
		return fmt.Sprintf("%q with %d attributes of daprd's %d", of.Name, len(of.attributes), len(than.attributes)), errors.Join(wrong...)
	}
	for _, right := range []bool{true, false} {
		name, operation := "a call, and what it posts", "create"
		if !right {
			name, operation = "a call that fails", "nothing"
		}
		table.row(name, func() (string, error) {
			trace := tracedBy[:30] + map[bool]string{true: "a1", false: "a2"}[right]
			for _, one := range []tracer{ours, builtin} {
				if _, err := one.callIn(trace, operation); err != nil {
					return "", err
				}
			}
			names := []string{api}
			if right {
				names = append(names, "bindings/mydingtalk/create")
			}
			of, err := collector.wait(ours.service, trace, names...)
			if err != nil {
				return "", err
			}
			than, err := collector.wait(builtin.service, trace, api)
			if err != nil {
				return "", err
			}
			// daprd has the client's address as the server's, see docs/dapr.md.
			seen, err := compared(of[api], than[api], "server.address", "server.port")
			err = errors.Join(err, equal("parent", of[api].ParentSpanID, than[api].ParentSpanID), equal("failure", of[api].failure, than[api].failure),
				equal("parent", of[api].ParentSpanID, parent), equal("kind of daprd's", than[api].Kind, 3), equal("kind of ours", of[api].Kind, 2))
			if right {
				posted := of["bindings/mydingtalk/create"]
				err = errors.Join(err, equal("what is posted is below", posted.ParentSpanID, of[api].SpanID), equal("errcode", posted.attributes["dingtalk.errcode"], "0"))
			}
			return seen, err
		})
	}
	table.row("what the application is handed", func() (string, error) {
		trace := tracedBy[:30] + "a3"
		for _, one := range []tracer{ours, builtin} {
			if answer, err := one.callIn(trace, "get"); err != nil || answer.status > 299 {
				return answer.String(), fmt.Errorf("get of %s: %w", one.service, err)
			}
		}
		delivery := "bindings/mydingtalk"
		of, err := collector.wait(ours.service, trace, api, delivery)
		if err != nil {
			return "", err
		}
		// daprd begins a trace of its own there, see docs/dapr.md.
		var than span
		err = eventually(patience, "daprd delivers", func() bool {
			for _, event := range builtin.app.received("hi") {
				part := strings.Split(event.header.Get("Traceparent"), "-")
				if len(part) == 4 {
					found := collector.spans(builtin.service, part[1])
					at := slices.IndexFunc(found, func(one span) bool { return one.Name == delivery })
					if at >= 0 {
						than = found[at]
						return true
					}
				}
			}
			return false
		})
		if err != nil {
			return "", err
		}
		seen, err := compared(of[delivery], than)
		handed := ours.app.received("hi")
		if len(handed) != 1 {
			return seen, fmt.Errorf("%d deliveries instead of 1", len(handed))
		}
		return seen, errors.Join(err, equal("kind", of[delivery].Kind, than.Kind), equal("parent", of[delivery].ParentSpanID, of[api].SpanID),
			equal("traceparent", handed[0].header.Get("Traceparent"), "00-"+trace+"-"+of[delivery].SpanID+"-01"))
	})
	table.row("a person, and the application", func() (string, error) {
		if _, err := ours.hears("mydingtalk", "through the host"); err != nil {
			return "", err
		}
		handed := ours.app.received("through the host")[0].header.Get("Traceparent")
		part := strings.Split(handed, "-")
		if len(part) != 4 {
			return handed, errors.New("no traceparent")
		}
		found, err := collector.wait(ours.service, part[1], api+"/callback", "bindings/mydingtalk")
		return handed, errors.Join(err, equal("delivery", found["bindings/mydingtalk"].SpanID, part[2]),
			equal("parent", found["bindings/mydingtalk"].ParentSpanID, found[api+"/callback"].SpanID))
	})
	table.row("through daprd, one trace of both processes", func() (string, error) {
		trace := tracedBy[:30] + "a4"
		if answer, err := beside.callIn(trace, "create"); err != nil || answer.status > 299 {
			return answer.String(), fmt.Errorf("create: %w", err)
		}
		posted := "bindings/mydingtalk/create"
		component, err := collector.wait("dingtalk-host", trace, posted)
		if err != nil {
			return "", err
		}
		daprd, err := collector.wait(beside.service, trace, api)
		if err != nil {
			return "", err
		}
		if err := equal("what is posted is below daprd's call", component[posted].ParentSpanID, daprd[api].SpanID); err != nil {
			return "", err
		}
		if _, err := beside.hears("mydingtalk", "through daprd"); err != nil {
			return "", err
		}
		handed := beside.app.received("through daprd")[0].header.Get("Traceparent")
		part := strings.Split(handed, "-")
		if len(part) != 4 {
			return handed, errors.New("no traceparent")
		}
		delivered, err := collector.wait("dingtalk-host", part[1], api+"/callback", "bindings/mydingtalk")
		if err != nil {
			return handed, err
		}
		called, err := collector.wait(beside.service, part[1], "bindings/mydingtalk")
		return handed, errors.Join(err, equal("daprd's delivery is below ours", called["bindings/mydingtalk"].ParentSpanID, delivered["bindings/mydingtalk"].SpanID))
	})
	table.row("nothing secret, and no message", func() (string, error) {
		text, err := os.ReadFile(collector.file)
		for _, canary := range []string{secret, "simulated-access-token", "through the host", `"hi"`, "sign="} {
			if bytes.Contains(text, []byte(canary)) {
				err = errors.Join(err, fmt.Errorf("%q is in a span", canary))
			}
		}
		return fmt.Sprintf("%d bytes of spans", len(text)), err
	})
	return nil
}

// Starts one of them between a group and an application, tracing everything to this endpoint.
func startTraced(programs paths, name, protocol, endpoint string) (tracer, error) {
	s, err := newStage(programs, "traces-"+name)
	if err != nil {
		return tracer{}, err
	}
	one := tracer{s, "traced-" + name}
	configuration := filepath.Join(filepath.Dir(s.resources), "config.yaml")
	text := fmt.Sprintf(`apiVersion: dapr.io/v1alpha1
kind: Configuration
metadata:
  name: traced
spec:
  tracing:
    samplingRate: "1"
    otel:
      endpointAddress: %q
      isSecure: false
      protocol: %s
`, endpoint, protocol)
	flags := []string{"--config", configuration, "--app-id", one.service}
	steps := []func() error{
		func() error { return os.WriteFile(configuration, []byte(text), 0o600) },
		func() error { return s.startGroup("mydingtalk") },
		s.specification,
	}
	switch name {
	case "serve":
		steps = append(steps, func() error {
			command := append([]string{
				s.host, "serve", "--resources-path", s.resources, "--dapr-http-port", s.http, "--dapr-grpc-port", s.grpc,
				"--app-port", s.app.port, "--callback-port", s.callbacks,
			}, flags...)
			if s.daprd, err = support.Start("dingtalk-host serve", nil, command...); err != nil {
				return err
			}
			ready, err := s.daprd.Ready("127.0.0.1:" + s.http)
			if err == nil && !ready {
				err = fmt.Errorf("the host has ended:\n%s", s.daprd.Log())
			}
			return err
		})
	case "builtin":
		s.program = s.builtin
		steps = append(steps, func() error { return s.startDaprd(flags...) })
	default:
		variables := []string{"OTEL_EXPORTER_OTLP_ENDPOINT=http://" + endpoint, "OTEL_EXPORTER_OTLP_PROTOCOL=" + protocol}
		steps = append(steps, func() error { return s.startComponentWith(variables) }, func() error { return s.startDaprd(flags...) })
	}
	for _, step := range steps {
		if err := step(); err != nil {
			s.stop()
			return one, err
		}
	}
	return one, nil
}

// A call below the span of the W3C's example, in this trace.
func (t tracer) callIn(trace, operation string) (answer, error) {
	text, err := json.Marshal(map[string]any{"operation": operation, "data": text("hi"), "metadata": map[string]string{}})
	if err != nil {
		return answer{}, err
	}
	request, err := http.NewRequest(http.MethodPost, "http://127.0.0.1:"+t.http+"/v1.0/bindings/mydingtalk", bytes.NewReader(text))
	if err != nil {
		return answer{}, err
	}
	request.Header.Set("Traceparent", "00-"+trace+"-"+parent+"-01")
	response, err := t.client.Do(request)
	if err != nil {
		return answer{}, err
	}
	defer response.Body.Close()
	body, err := io.ReadAll(response.Body)
	told := strings.Split(response.Header.Get("Traceparent"), "-")
	if len(told) != 4 || told[1] != trace || told[2] == parent {
		err = errors.Join(err, fmt.Errorf("%s answers with traceparent %q", t.service, strings.Join(told, "-")))
	}
	return answer{response.StatusCode, response.Header, string(body)}, err
}

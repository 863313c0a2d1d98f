package main

import (
	"encoding/json"
	"strings"
)

// One thing that is asked of both.
type test struct {
	name string
	// The component, and so the place where the robot and the application see it.
	place string
	// A request as it is written; where `body` is nil, it is made of operation, data and metadata.
	method, target string
	header         [][2]string
	body           *string
	operation      string
	data           string
	metadata       map[string]string
	// It takes half a minute.
	slow bool
	// What is expected to differ, and the row of docs/dapr.md that says why.
	because reasons
}

// What differs, as compare names it, and the row of docs/dapr.md.
type reasons map[string]string

func create(name, place, data string, because reasons) test {
	return test{name: name, place: place, operation: "create", data: data, because: because}
}

func get(name, place, data string, because reasons) test {
	return test{name: name, place: place, operation: "get", data: data, because: because}
}

func raw(name, place, body string, because reasons) test {
	return test{name: name, place: place, body: &body, because: because}
}

func (t test) with(metadata ...string) test {
	t.metadata = map[string]string{}
	for i := 0; i+1 < len(metadata); i += 2 {
		t.metadata[metadata[i]] = metadata[i+1]
	}
	return t
}

func (t test) headed(name, value string) test {
	t.header = append(t.header, [2]string{name, value})
	return t
}

func (t test) as(method, target string) test {
	t.method, t.target = method, target
	return t
}

// The request over HTTP.
func (t test) request() (method, target string, body []byte) {
	method, target = t.method, t.target
	if method == "" {
		method = "POST"
	}
	if target == "" {
		target = "/v1.0/bindings/" + t.place
	}
	if t.body != nil {
		return method, target, []byte(*t.body)
	}
	members := []string{}
	if t.operation != "" {
		members = append(members, `"operation":"`+t.operation+`"`)
	}
	if t.data != "" {
		members = append(members, `"data":`+t.data)
	}
	if t.metadata != nil {
		metadata, _ := json.Marshal(t.metadata)
		members = append(members, `"metadata":`+string(metadata))
	}
	return method, target, []byte("{" + strings.Join(members, ",") + "}")
}

const (
	text = `{"msgtype":"text","text":{"content":"hi"}}`
	sent = `{"operation":"create","data":` + text + `}`
)

func worlds() []world {
	return append([]world{
		{name: "alone", files: alone(), environment: []string{"SIGNING_SECRET=" + secret, "DAPR_SECRET=" + secret}, cases: append(append(append(messages(), answers()...), properties()...), requests()...)},
		{name: "application", app: true, files: withApplication(), cases: gets()},
		{name: "token", files: files(map[string]string{"signed": component("signed", id("signed"), robot("signed"), signed)}), environment: []string{"DAPR_API_TOKEN=token"}, cases: tokens()},
	}, starts()...)
}

// Every type of message, and what is none.
func messages() []test {
	return []test{
		create("text", "signed", text, nil),
		create("link", "signed", `{"msgtype":"link","link":{"title":"t","text":"x","picUrl":"","messageUrl":"https://example.com/?a=1&b=2"}}`, nil),
		create("markdown", "signed", `{"msgtype":"markdown","markdown":{"title":"t","text":"# x\n> y"},"at":{"atMobiles":["1"],"isAtAll":true}}`, nil),
		create("action card", "signed", `{"msgtype":"actionCard","actionCard":{"title":"t","text":"x","singleTitle":"open","singleURL":"https://example.com/"}}`, nil),
		create("action card with buttons", "signed", `{"msgtype":"actionCard","actionCard":{"title":"t","text":"x","btnOrientation":"0","btns":[{"title":"a","actionURL":"https://example.com/"}]}}`, nil),
		create("feed card", "signed", `{"msgtype":"feedCard","feedCard":{"links":[{"title":"t","messageURL":"https://example.com/","picURL":"https://example.com/p.png"}]}}`, nil),
		create("without a secret", "unsigned", text, nil),
		create("with an empty secret", "empty", text, nil),
		create("the specification's example", "signed", `{"message":"Hi"}`, nil),
		create("members in another order, with blanks", "signed", `{ "text": {"content": "hi"}, "msgtype": "text" }`, nil),
		create("angle brackets and ampersand", "signed", `{"msgtype":"text","text":{"content":"<b>&</b>"}}`, nil),
		create("Chinese and an emoji", "signed", `{"msgtype":"text","text":{"content":"你好😀"}}`, nil),
		create("half a surrogate pair", "signed", `{"msgtype":"text","text":{"content":"\ud800"}}`, nil),
		create("line separators", "signed", "{\"msgtype\":\"text\",\"text\":{\"content\":\"a\u2028b\"}}", nil),
		create("a large number", "signed", `{"msgtype":"text","text":{"content":"hi"},"n":12345678901234567890}`, nil),
		create("numbers in other forms", "signed", `{"msgtype":"text","text":{"content":"hi"},"n":[1.0,1e21,-0]}`, nil),
		create("a member twice", "signed", `{"msgtype":"link","msgtype":"text","text":{"content":"hi"}}`, nil),
		create("no data", "signed", "", nil),
		create("null", "signed", `null`, nil),
		create("a number", "signed", `7`, nil),
		create("true", "signed", `true`, nil),
		create("a list", "signed", `[1]`, nil),
		create("an empty object", "signed", `{}`, nil),
		create("a string", "signed", `"hi"`, nil),
		create("an empty string", "signed", `""`, nil),
		create("a message in a string", "signed", `"{\"msgtype\":\"text\",\"text\":{\"content\":\"hi\"}}"`, nil),
		create("a message of an unknown type", "signed", `{"msgtype":"image","image":{"picURL":"x"}}`, nil),
		create("100 levels deep", "signed", strings.Repeat(`{"a":`, 100)+`1`+strings.Repeat(`}`, 100), nil),
		create("3 MiB", "signed", `{"msgtype":"text","text":{"content":"`+strings.Repeat("x", 3<<20)+`"}}`, nil),
		create("metadata for mentions", "signed", `"hi"`, nil).with("atMobiles", "1,2", "isAtAll", "true"),
		create("metadata msgUuid", "signed", text, nil).with("msgUuid", "1"),
		create("metadata that nobody knows", "signed", text, nil).with("colour", "red", "ttlInSeconds", "1"),
	}
}

// What a robot, or what stands in its place, answers.
func answers() []test {
	tests := []test{}
	for _, name := range []string{
		"keywords", "limited", "busy", "speechless", "quoted", "quotedfault", "fraction", "nocode", "null", "throttled", "nothing",
		"page", "list", "trailing", "capitalcode", "echo", "created", "nocontent", "forbidden", "teapot", "broken", "unavailable",
		"large", "verbose", "cut", "closed", "redirect", "nobody", "hanging",
	} {
		test := create("the robot: "+name, name, text, nil)
		test.slow = name == "hanging"
		tests = append(tests, test)
	}
	return tests
}

func properties() []test {
	tests := []test{}
	for _, name := range []string{
		"bare", "fragment", "stale", "staleunsigned", "spaced", "chinese", "noscheme", "nourl", "path", "ftp", "noid", "nourlkey",
		"capitals", "twice", "unknown", "number", "blank", "escaped", "alias", "cased", "nacos", "kafka", "elsewhere",
		"version", "patience", "truthful", "output", "input", "stored", "missing", "void", "nameless", "nostore", "storeless",
		"variable", "unset", "blocked", "pod", "template", "document", "second",
	} {
		tests = append(tests, create("component: "+name, name, text, nil))
	}
	return append(tests,
		get("get shows the id: number", "number", text, nil),
		get("get shows the id: template", "template", text, nil),
		raw("a name with a blank", "name", sent, nil).as("POST", "/v1.0/bindings/a+b"),
	)
}

func requests() []test {
	return []test{
		{name: "no operation", place: "signed", data: text},
		{name: "an unknown operation", place: "signed", operation: "delete", data: text},
		{name: "an operation in capitals", place: "signed", operation: "CREATE", data: text},
		{name: "the operation reply", place: "signed", operation: "reply", data: text},
		create("an unknown binding", "nowhere", text, nil),
		{name: "an unknown binding, no operation", place: "nowhere", data: text},
		create("a name in capitals", "SIGNED", text, nil),
		get("get without an application", "signed", text, nil),
		raw("an empty body", "signed", ``, nil),
		raw("broken JSON", "signed", `{"operation":`, nil),
		raw("no JSON", "signed", `hello`, nil),
		raw("null as the body", "signed", `null`, nil),
		raw("a list as the body", "signed", `[]`, nil),
		raw("invalid UTF-8", "signed", "{\"operation\":\"create\",\"data\":{\"msgtype\":\"text\",\"text\":{\"content\":\"\xff\"}}}", nil),
		raw("what follows the body", "signed", sent+` garbage`, nil),
		raw("members in capitals", "signed", strings.Replace(sent, "operation", "OPERATION", 1), nil),
		raw("a member twice", "signed", `{"operation":"get",`+sent[1:], nil),
		raw("an unknown member", "signed", `{"colour":"red",`+sent[1:], nil),
		raw("the operation as a number", "signed", `{"operation":1}`, nil),
		raw("metadata with a number", "signed", `{"metadata":{"a":1},`+sent[1:], nil),
		raw("metadata as null", "signed", `{"metadata":null,`+sent[1:], nil),
		raw("1,001 items of metadata", "signed", `{"metadata":{`+many(1001)+`},`+sent[1:], nil),
		raw("PUT", "signed", sent, nil).as("PUT", ""),
		raw("GET", "signed", sent, nil).as("GET", ""),
		raw("DELETE", "signed", sent, nil).as("DELETE", ""),
		raw("an unknown path", "signed", sent, nil).as("POST", "/v1.0/nowhere"),
		raw("another version", "signed", sent, nil).as("POST", "/v1.1/bindings/signed"),
		raw("a slash at the end", "signed", sent, nil).as("POST", "/v1.0/bindings/signed/"),
		raw("two slashes", "signed", sent, nil).as("POST", "//v1.0//bindings/signed"),
		raw("a query", "signed", sent, nil).as("POST", "/v1.0/bindings/signed?metadata.msgUuid=1"),
		raw("a name percent-encoded", "signed", sent, nil).as("POST", "/v1.0/bindings/%73igned"),
		raw("a name badly encoded", "signed", sent, nil).as("POST", "/v1.0/bindings/%2573%25zz"),
		raw("a name whose encoding breaks off", "signed", sent, nil).as("POST", "/v1.0/bindings/%zz"),
		raw("another content type", "signed", sent, nil).headed("Content-Type", "text/plain"),
		raw("a trace", "signed", sent, nil).headed("traceparent", "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"),
		raw("baggage", "signed", sent, nil).headed("baggage", "a=1,b=2"),
		raw("invalid baggage", "signed", sent, nil).headed("baggage", "a"),
		raw("a head of 8 KiB", "signed", sent, nil).headed("X-Long", strings.Repeat("x", 8<<10)),
		raw("a head of 20 KiB", "signed", sent, nil).headed("X-Long", strings.Repeat("x", 20<<10)),
		raw("5 MiB", "signed", `{"operation":"create","data":"`+strings.Repeat("x", 5<<20)+`"}`, nil),
		raw("a page of another origin", "signed", sent, nil).headed("Origin", "https://evil.example"),
		raw("another host", "signed", sent, nil).headed("Host", "evil.example"),
		raw("an empty host", "signed", sent, nil).headed("Host", ""),
		raw("health", "signed", ``, nil).as("GET", "/v1.0/healthz"),
		raw("health towards the outside", "signed", ``, nil).as("GET", "/v1.0/healthz/outbound"),
		raw("health of this application", "signed", ``, nil).as("GET", "/v1.0/healthz?appid=differences"),
		raw("health of another application", "signed", ``, nil).as("GET", "/v1.0/healthz?appid=another"),
		raw("an attribute", "signed", `red`, nil).as("PUT", "/v1.0/metadata/colour"),
		raw("metadata", "signed", ``, nil).as("GET", "/v1.0/metadata"),
	}
}

func many(n int) string {
	items := make([]string, n)
	for i := range items {
		items[i] = `"k` + strings.Repeat("x", i%7) + string(rune('a'+i%26)) + strings.Repeat("y", i/26) + `":""`
	}
	return strings.Join(items, ",")
}

func gets() []test {
	return []test{
		get("get", "both", text, nil),
		get("get, no answer's body", "silent", text, nil),
		get("get, answered with 204", "emptied", text, nil),
		get("get, answered with 202", "accepted", text, nil),
		get("get, answered with a message", "answering", text, nil),
		get("get, answered with to and data", "forwarding", text, nil),
		get("get, answered with 500", "failing", text, nil),
		get("get, answered with 404", "denying", text, nil),
		get("get, connection closed", "dropping", text, nil),
		get("OPTIONS answered with 405", "methodless", text, nil),
		get("OPTIONS answered with 404", "unwilling", text, nil),
		get("OPTIONS answered with 500", "faulty", text, nil),
		get("get, route", "way", text, nil).as("POST", "/v1.0/bindings/routed"),
		get("get, output only", "sender", text, nil),
		get("get, id of its own each time", "fresh", text, nil),
		get("get of null", "both", `null`, nil),
		get("get of a string", "both", `"hi"`, nil),
		get("get of an object with blanks", "both", `{ "z": 1, "a": "<b>" }`, nil),
		get("get with metadata", "both", text, nil).with("colour", "red", "Size-Of", "large", "content-type", "text/plain", "empty", ""),
		get("get with Chinese metadata", "both", text, nil).with("name", "张三"),
		get("get with a trace", "both", text, nil).headed("traceparent", "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"),
		get("get with baggage", "both", text, nil).headed("baggage", "a=1"),
		create("create, with an application", "both", text, nil),
		raw("metadata, with an application", "both", ``, nil).as("GET", "/v1.0/metadata"),
	}
}

func tokens() []test {
	return []test{
		raw("no token", "signed", sent, nil),
		raw("a wrong token", "signed", sent, nil).headed("dapr-api-token", "wrong"),
		raw("the token", "signed", sent, nil).headed("dapr-api-token", "token"),
		raw("health without a token", "signed", ``, nil).as("GET", "/v1.0/healthz"),
		raw("metadata without a token", "signed", ``, nil).as("GET", "/v1.0/metadata"),
		raw("a page of another origin, with the token", "signed", sent, nil).headed("dapr-api-token", "token").headed("Origin", "https://evil.example"),
	}
}

// What decides whether a program starts at all.
func starts() []world {
	sound := component("signed", id("signed"), robot("signed"), signed)
	worlds := []world{}
	for _, start := range []struct {
		name    string
		files   map[string]string
		because reasons
	}{
		{"no id", map[string]string{"a": component("signed", robot("signed"), signed)}, nil},
		{"no url", map[string]string{"a": component("signed", id("signed"), signed)}, nil},
		{"a url that is none", map[string]string{"a": component("signed", id("signed"), to("hello"), signed)}, nil},
		{"a secret that cannot be read", map[string]string{"a": component("signed", id("signed"), robot("signed"), "name: secret, envRef: NOT_SET")}, nil},
		{"a property twice", map[string]string{"a": component("signed", id("signed"), robot("signed"), robot("twice"))}, nil},
		{"a mapping as a value", map[string]string{"a": component("signed", "name: id, value: {uuid}", robot("signed"), signed)}, nil},
		{"a file that is no YAML", map[string]string{"a": sound, "b": "apiVersion: [dapr.io/v1alpha1"}, nil},
		{"two components of one name", map[string]string{"a": sound, "b": sound}, nil},
		{"two of one name, one for another application", map[string]string{"a": sound, "b": sound + "scopes: [another]\n"}, nil},
		{"a document separator in a text", map[string]string{"a": sound, "b": "apiVersion: dapr.io/v1alpha1\nkind: Component\nmetadata: {name: block}\nspec:\n  type: bindings.dingtalk.webhook\n  version: v1\n  metadata:\n  - name: id\n    value: |\n      a\n      ---\n      b\n  - {" + robot("block") + "}\n"}, nil},
		{"ignoreErrors as a text", map[string]string{"a": strings.Replace(sound, "version: v1", "version: v1\n  ignoreErrors: \"true\"", 1)}, nil},
		{"a name with a slash", map[string]string{"a": sound, "b": strings.Replace(sound, `"signed"`, `"a/b"`, 1)}, nil},
		{"another type of binding", map[string]string{"a": sound, "b": typed("bindings.kafka", "kafka", "", []string{id("kafka")})}, nil},
		{"the specification's type", map[string]string{"a": typed("bindings.nacos", "signed", "", []string{id("signed"), robot("signed"), signed})}, nil},
		{"a type in capitals", map[string]string{"a": typed("BINDINGS.DINGTALK.WEBHOOK", "signed", "", []string{id("signed"), robot("signed"), signed})}, nil},
		{"no component", map[string]string{}, nil},
		{"a secret store that is not there", map[string]string{"a": strings.Replace(component("signed", id("signed"), robot("signed"), "name: secret, secretKeyRef: {name: x}"), "{secretStore: secrets}", "{secretStore: absent}", 1)}, nil},
	} {
		worlds = append(worlds, world{
			name: strings.ReplaceAll(start.name, " ", "-"), files: files(start.files), mayEnd: true,
			cases: []test{create("start: "+start.name, "signed", text, start.because)},
		})
	}
	return worlds
}

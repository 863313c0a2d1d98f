package main

import (
	"encoding/json"
	"fmt"
	"maps"
	"slices"
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
	// Over gRPC.
	grpc bool
	// It takes half a minute.
	slow bool
	// The robot is posted to after the answer.
	later bool
	// What is expected to differ, as compare names it, and the row of docs/dapr.md that says why.
	reasons map[string]string
	// The same over gRPC alone, where Go does not write data again.
	onlyGRPC map[string]string
	// The same through daprd's socket, where it is another row; none where nothing differs there.
	socket map[string]string
}

func create(name, place, data string) test {
	return test{name: name, place: place, operation: "create", data: data}
}

func get(name, place, data string) test {
	return test{name: name, place: place, operation: "get", data: data}
}

func raw(name, place, body string) test {
	return test{name: name, place: place, body: &body}
}

// Adds what differs for the reason that this row of docs/dapr.md has.
func (t test) differs(row string, what ...string) test {
	reasons := map[string]string{}
	maps.Copy(reasons, t.reasons)
	for _, what := range what {
		reasons[what] = row
	}
	t.reasons = reasons
	return t
}

func (t test) differsOverGRPC(row, what string) test {
	t.onlyGRPC = map[string]string{what: row}
	return t
}

func (t test) throughSocket(row string, what ...string) test {
	rows := map[string]string{}
	maps.Copy(rows, t.socket)
	for _, what := range what {
		rows[what] = row
	}
	t.socket = rows
	return t
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
	environment := []string{"SIGNING_SECRET=" + secret, "DAPR_SECRET=" + secret}
	all := []world{
		{name: "alone", files: alone(), environment: environment, cases: slices.Concat(messages(), answers(), properties(), requests())},
		{name: "application", app: true, files: withApplication(), cases: gets()},
		{name: "token", files: files(map[string]string{"signed": sound, "variables": variables}), environment: []string{"DAPR_API_TOKEN=token"}, cases: tokens()},
		{name: "double", app: true, files: files(map[string]string{
			"a": component("sender", id("one"), robot("sender"), `name: direction, value: "output"`),
			"b": component("silent", id("one"), robot("silent")),
		}), cases: doubles()},
	}
	return append(all, starts()...)
}

// Every type of message, and what is none.
func messages() []test {
	refused := func(name, data string) test {
		return create(name, "signed", data).differs("Messages", "answer", "posts")
	}
	shaped := func(name, data string) test {
		return create(name, "signed", data).differs("Messages", "post 1 body")
	}
	return []test{
		create("text", "signed", text),
		create("link", "signed", `{"msgtype":"link","link":{"title":"t","text":"x","picUrl":"","messageUrl":"https://example.com/?a=1&b=2"}}`),
		create("markdown", "signed", `{"msgtype":"markdown","markdown":{"title":"t","text":"# x\n> y"},"at":{"atMobiles":["1"],"isAtAll":true}}`),
		create("action card", "signed", `{"msgtype":"actionCard","actionCard":{"title":"t","text":"x","singleTitle":"open","singleURL":"https://example.com/"}}`),
		create("action card with buttons", "signed", `{"msgtype":"actionCard","actionCard":{"title":"t","text":"x","btnOrientation":"0","btns":[{"title":"a","actionURL":"https://example.com/"}]}}`),
		create("feed card", "signed", `{"msgtype":"feedCard","feedCard":{"links":[{"title":"t","messageURL":"https://example.com/","picURL":"https://example.com/p.png"}]}}`),
		create("no secret", "unsigned", text),
		create("an empty secret", "empty", text),
		create("members in another order, with blanks", "signed", `{ "text": {"content": "hi"}, "msgtype": "text" }`),
		create("angle brackets and ampersand", "signed", `{"msgtype":"text","text":{"content":"<b>&</b>"}}`),
		create("Chinese and an emoji", "signed", `{"msgtype":"text","text":{"content":"你好😀"}}`),
		create("half a surrogate pair", "signed", `{"msgtype":"text","text":{"content":"\ud800"}}`).differsOverGRPC("Messages", "post 1 body"),
		create("line separators", "signed", "{\"msgtype\":\"text\",\"text\":{\"content\":\"a\u2028b\"}}"),
		create("a large number", "signed", `{"msgtype":"text","text":{"content":"hi"},"n":12345678901234567890}`),
		create("numbers in other forms", "signed", `{"msgtype":"text","text":{"content":"hi"},"n":[1.0,1e21,-0]}`),
		create("a member twice in data", "signed", `{"msgtype":"link","msgtype":"text","text":{"content":"hi"}}`),
		create("an empty object", "signed", `{}`),
		create("a message of an unknown type", "signed", `{"msgtype":"image","image":{"picURL":"x"}}`),
		create("100 levels deep", "signed", strings.Repeat(`{"a":`, 100)+`1`+strings.Repeat(`}`, 100)),
		create("3 MiB", "signed", `{"msgtype":"text","text":{"content":"`+strings.Repeat("x", 3<<20)+`"}}`),
		shaped("the specification's example", `{"message":"Hi"}`),
		shaped("a string", `"hi"`),
		shaped("a message in a string", `"{\"msgtype\":\"text\",\"text\":{\"content\":\"hi\"}}"`),
		refused("no data", ""),
		refused("null", `null`),
		refused("a number", `7`),
		refused("true", `true`),
		refused("a list", `[1]`),
		refused("an empty string", `""`),
		create("metadata for mentions", "signed", `"hi"`).with("atMobiles", "1,2", "isAtAll", "true").differs("Request metadata", "post 1 body"),
		create("metadata msgUuid", "signed", text).with("msgUuid", "1").differs("Request metadata", "post 1 body"),
		create("metadata that nobody knows", "signed", text).with("colour", "red", "ttlInSeconds", "1"),
	}
}

// What a robot, or what stands in its place, answers.
func answers() []test {
	answered := func(name, place string) test { return create("answer: "+name, place, text) }
	hanging := answered("none", "hanging").differs("Connections", "message, behind its beginning")
	hanging.slow = true
	return []test{
		answered("a keyword is missing", "keywords").differs("Refusals", "message, continued"),
		answered("too many messages", "limited").differs("Refusals", "message, continued"),
		answered("busy", "busy").differs("Refusals", "message, continued").differs("Retries", "posts").throughSocket("", "posts"),
		answered("no errmsg", "speechless").differs("Refusals", "message, continued"),
		answered("errmsg is long", "verbose").differs("Long texts", "message, behind its beginning"),
		answered("errmsg repeats the query", "echo").differs("Secrets in texts", "message, behind its beginning"),
		answered("errcode is \"0\"", "quoted").differs("Quoted codes", "answer"),
		answered("errcode is \"310000\"", "quotedfault").differs("Quoted codes", "message"),
		answered("errcode is 0.5", "fraction").differs("No result", "message, behind its beginning"),
		answered("errcode is spelt otherwise", "capitalcode").differs("Strictness", "message"),
		answered("more behind the result", "trailing").differs("Strictness", "answer"),
		answered("{}", "nocode").differs("No errcode", "answer"),
		answered("null", "null").differs("No errcode", "answer"),
		answered("the throttle page", "throttled").differs("No errcode", "answer"),
		answered("an empty body", "nothing").differs("No result", "message, behind its beginning"),
		answered("HTML", "page").differs("No result", "message, behind its beginning"),
		answered("a list", "list").differs("No result", "message, behind its beginning"),
		answered("cut short", "cut").differs("No result", "message, behind its beginning"),
		answered("100 KB", "large").differs("Long answers", "answer"),
		answered("201", "created").differs("Outcome", "message, continued"),
		answered("204", "nocontent").differs("Outcome", "message, continued"),
		answered("307", "redirect").differs("Redirects", "answer", "posts elsewhere"),
		answered("403", "forbidden"),
		answered("404", "teapot"),
		answered("500", "broken").differs("Outcome", "message, continued"),
		answered("503", "unavailable").differs("Outcome", "message, continued"),
		answered("the connection is closed", "closed").differs("Connections", "message, behind its beginning"),
		answered("nobody listens", "nobody").differs("Connections", "message, behind its beginning"),
		hanging,
	}
}

func properties() []test {
	has := func(name, place string) test { return create("component: "+name, place, text) }
	return []test{
		has("url without ?", "bare").differs("Joining", "post 1 target", "post 1 signature"),
		has("url with a fragment", "fragment").differs("Fragments", "post 1 target", "post 1 signature"),
		has("url with a signature", "stale").differs("Old signatures", "post 1 target", "post 1 signature"),
		has("url with a signature, no secret", "staleunsigned").differs("Old signatures", "post 1 target", "post 1 signature"),
		has("url in blanks", "spaced").differs("Characters in URLs", "answer", "posts"),
		has("url with Chinese and a blank", "chinese").differs("Characters in URLs", "answer", "posts"),
		has("url without a scheme", "noscheme").differs("URLs", "message"),
		has("url that is a word", "nourl").differs("URLs", "message, behind its beginning"),
		has("url that is a path", "path").differs("URLs", "message"),
		has("url with ftp", "ftp").differs("URLs", "message"),
		has("no id", "noid"),
		has("no url", "nourlkey"),
		has("names in capitals", "capitals"),
		has("a name in two cases", "twice"),
		has("a property that nobody knows", "unknown"),
		get("component: id is 0012", "number", text).differs("Numbers", "message").throughSocket("Nobody reads", "message, continued"),
		get("component: id with templates", "template", text).differs("Nobody reads", "message, continued"),
		has("secret with a line break", "blank").differs("White space in secrets", "answer", "posts"),
		has("escaped slashes", "escaped").differs("Escapes", "answer", "posts"),
		has("the other name of the type", "alias"),
		has("the type in another case", "cased"),
		has("the specification's type", "nacos").differs("Types", "answer", "posts"),
		has("another type", "kafka"),
		has("for another application", "elsewhere"),
		has("another version", "version"),
		has("initTimeout that is none", "patience"),
		has("ignoreErrors as a text", "truthful").differs("ignoreErrors", "answer", "posts"),
		has("direction output", "output"),
		has("direction input", "input"),
		has("secret from a file", "stored"),
		has("secret that the store has not", "missing").differs("Missing secrets", "answer", "posts"),
		has("secret that is empty in the store", "void").differs("Missing secrets", "answer", "posts"),
		has("secretKeyRef without a name", "nameless").differs("References", "answer", "posts"),
		has("secretKeyRef without a store", "nostore").differs("References", "answer", "posts"),
		has("a store that is not there", "storeless"),
		has("secret from a variable", "variable"),
		has("secret from a variable that is not set", "unset").differs("Variables", "answer", "posts"),
		has("secret from a variable of Dapr's", "blocked").differs("Variables", "answer", "posts"),
		has("{podName} without one", "pod"),
		has("first of two documents", "document"),
		has("second of two documents", "second"),
		raw("component: a name with a blank", "name", sent).as("POST", "/v1.0/bindings/a+b"),
	}
}

func requests() []test {
	refused := func(test test) test { return test.differs("Callers", "answer", "posts") }
	return []test{
		{name: "no operation", place: "signed", data: text},
		test{name: "an unknown operation", place: "signed", operation: "delete", data: text}.differs("Operations", "message, continued"),
		test{name: "an operation in capitals", place: "signed", operation: "CREATE", data: text}.differs("Operations", "message, continued"),
		test{name: "the operation reply", place: "signed", operation: "reply", data: text}.differs("Operations", "message"),
		create("an unknown binding", "nowhere", text),
		{name: "an unknown binding, no operation", place: "nowhere", data: text},
		create("a name in capitals", "SIGNED", text),
		get("get without an application", "signed", text).differs("Nobody reads", "message, continued"),
		raw("an empty body", "signed", ``),
		raw("broken JSON", "signed", `{"operation":`).differs("Texts about JSON", "message"),
		raw("no JSON", "signed", `hello`).differs("Texts about JSON", "message"),
		raw("null as the body", "signed", `null`),
		raw("a list as the body", "signed", `[]`).differs("Texts about JSON", "message"),
		raw("invalid UTF-8", "signed", "{\"operation\":\"create\",\"data\":{\"msgtype\":\"text\",\"text\":{\"content\":\"\xff\"}}}").differs("UTF-8", "answer", "posts"),
		raw("what follows the body", "signed", sent+` garbage`),
		raw("members in capitals", "signed", strings.Replace(sent, "operation", "OPERATION", 1)),
		raw("a member twice", "signed", `{"operation":"get",`+sent[1:]),
		raw("an unknown member", "signed", `{"colour":"red",`+sent[1:]),
		raw("the operation as a number", "signed", `{"operation":1}`).differs("Texts about JSON", "message"),
		raw("metadata with a number", "signed", `{"metadata":{"a":1},`+sent[1:]).differs("Texts about JSON", "message"),
		raw("metadata as null", "signed", `{"metadata":null,`+sent[1:]),
		raw("1,001 items of metadata", "signed", `{"metadata":{`+many(1001)+`},`+sent[1:]).differs("Items of metadata", "answer", "posts").throughSocket("Items of metadata", "answer", "posts"),
		raw("PUT", "signed", sent).as("PUT", ""),
		raw("GET", "signed", sent).as("GET", ""),
		raw("DELETE", "signed", sent).as("DELETE", ""),
		raw("an operation in the path", "signed", text).as("POST", "/v1.0/bindings/signed/create").differs("Operations in the path", "answer", "posts"),
		raw("an operation in the path, by PUT", "signed", text).as("PUT", "/v1.0/bindings/signed/create?metadata.colour=red").differs("Operations in the path", "answer", "posts"),
		raw("more behind an operation", "signed", sent).as("POST", "/v1.0/bindings/signed/create/more"),
		raw("GET of an operation", "signed", sent).as("GET", "/v1.0/bindings/signed/create"),
		raw("an unknown path", "signed", sent).as("POST", "/v1.0/nowhere"),
		raw("another version", "signed", sent).as("POST", "/v1.1/bindings/signed"),
		raw("a slash at the end", "signed", sent).as("POST", "/v1.0/bindings/signed/"),
		raw("two slashes", "signed", sent).as("POST", "//v1.0//bindings/signed"),
		raw("a query", "signed", sent).as("POST", "/v1.0/bindings/signed?metadata.msgUuid=1"),
		raw("a name percent-encoded", "signed", sent).as("POST", "/v1.0/bindings/%73igned"),
		raw("a name badly encoded", "signed", sent).as("POST", "/v1.0/bindings/%2573%25zz"),
		raw("a path badly encoded", "signed", sent).as("POST", "/v1.0/bindings/%zz").differs("Bad escapes", "body", "header X-Content-Type-Options"),
		raw("another content type", "signed", sent).headed("Content-Type", "text/plain"),
		raw("a trace", "signed", sent).headed("traceparent", "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"),
		raw("baggage", "signed", sent).headed("baggage", "a=1,b=2").differs("Trace headers", "header Baggage"),
		raw("invalid baggage", "signed", sent).headed("baggage", "a").differs("Baggage", "body", "message, continued", "errorCode", "header Content-Type", "header X-Content-Type-Options"),
		raw("a head of 8 KiB", "signed", sent).headed("X-Long", strings.Repeat("x", 8<<10)).differs("Heads", "answer", "posts"),
		raw("a head of 20 KiB", "signed", sent).headed("X-Long", strings.Repeat("x", 20<<10)).differs("Heads", "body", "header Content-Type"),
		raw("5 MiB", "signed", `{"operation":"create","data":"`+strings.Repeat("x", 5<<20)+`"}`).differs("Long bodies", "message, continued"),
		refused(raw("a page of another origin", "signed", sent).headed("Origin", "https://evil.example")),
		refused(raw("a browser's other site", "signed", sent).headed("Sec-Fetch-Site", "cross-site")),
		refused(raw("another host", "signed", sent).headed("Host", "evil.example")),
		refused(raw("an empty host", "signed", sent).headed("Host", "")),
		raw("health", "signed", ``).as("GET", "/v1.0/healthz"),
		raw("health towards the outside", "signed", ``).as("GET", "/v1.0/healthz/outbound"),
		raw("health of this application", "signed", ``).as("GET", "/v1.0/healthz?appid=differences"),
		raw("health of another application", "signed", ``).as("GET", "/v1.0/healthz?appid=another"),
		raw("an attribute", "signed", `red`).as("PUT", "/v1.0/metadata/colour"),
	}
}

func many(n int) string {
	items := make([]string, n)
	for i := range items {
		items[i] = fmt.Sprintf(`"k%d":""`, i)
	}
	return strings.Join(items, ",")
}

func gets() []test {
	forwarding := get("get, answered with to and data", "forwarding", text).differs("Answer of `get`", "body").differs("`to` and `data`", "posts")
	forwarding.later = true
	return []test{
		get("get", "both", text),
		get("get, no answer's body", "silent", text),
		get("get, answered with 204", "emptied", text),
		get("get, answered with 202", "accepted", text),
		get("get, answered with a message", "answering", text).differs("Answer of `get`", "body"),
		forwarding,
		get("get, answered with 500", "failing", text).differs("Errors of `get`", "message"),
		get("get, answered with 404", "denying", text).differs("Errors of `get`", "message"),
		get("get, connection closed", "dropping", text).differs("Errors of `get`", "message"),
		get("OPTIONS answered with 405", "methodless", text),
		get("OPTIONS answered with 404", "unwilling", text).differs("Nobody reads", "message, continued"),
		get("OPTIONS answered with 500", "faulty", text).differs("Nobody reads", "message, continued"),
		get("get, route", "way", text).as("POST", "/v1.0/bindings/routed"),
		get("get, output only", "sender", text).differs("Nobody reads", "message, continued"),
		get("get, id: {uuid}", "fresh", text),
		get("get of null", "both", `null`),
		get("get of a string", "both", `"hi"`),
		get("get of an object with blanks", "both", `{ "z": 1, "a": "<b>" }`),
		get("get with metadata", "both", text).with("colour", "red", "Size-Of", "large", "content-type", "text/plain", "empty", ""),
		get("get with Chinese metadata", "both", text).with("name", "张三").differs("Header values", "delivery 1 header Name"),
		get("get with long metadata", "both", text).with("long", strings.Repeat("x", 5000)).differs("Header values", "delivery 1 header Long"),
		get("get with a trace", "both", text).headed("traceparent", "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"),
		get("get with baggage", "both", text).headed("baggage", "a=1").differs("Trace headers", "header Baggage"),
		create("create, with an application", "both", text),
		raw("metadata, with an application", "both", ``).as("GET", "/v1.0/metadata"),
	}
}

// Two of one id, of which one reads.
func doubles() []test {
	return []test{
		get("get, by the id of another", "silent", text).as("POST", "/v1.0/bindings/sender").differs("One id twice", "answer", "deliveries"),
	}
}

func tokens() []test {
	return []test{
		raw("no token", "signed", sent),
		raw("a wrong token", "signed", sent).headed("dapr-api-token", "wrong"),
		raw("the token", "signed", sent).headed("dapr-api-token", "token"),
		raw("health without a token", "signed", ``).as("GET", "/v1.0/healthz"),
		raw("metadata without a token", "signed", ``).as("GET", "/v1.0/metadata"),
		raw("metadata", "signed", ``).as("GET", "/v1.0/metadata").headed("dapr-api-token", "token").differs("Capabilities", "bindings signed"),
		raw("a page of another origin, with the token", "signed", sent).headed("dapr-api-token", "token").headed("Origin", "https://evil.example"),
	}
}

var sound = component("signed", id("signed"), robot("signed"), signed)

// What decides whether a program starts at all.
func starts() []world {
	worlds := []world{}
	add := func(name, row, what string, texts ...string) {
		named := map[string]string{}
		for i, text := range texts {
			named[string(rune('a'+i))] = text
		}
		started := create("start: "+name, "signed", text)
		if row != "" {
			what, here := strings.CutSuffix(what, " not through the socket")
			things := strings.Fields(what)
			started = started.differs(row, things...)
			if here {
				started = started.throughSocket("", things...)
			}
		}
		worlds = append(worlds, world{
			name: strings.NewReplacer(" ", "-", ",", "").Replace(name), files: files(named), mayEnd: true, cases: []test{started},
		})
	}
	another := func(old, new string) string { return strings.Replace(sound, old, new, 1) }
	add("no id", "", "", component("signed", robot("signed"), signed))
	add("no url", "", "", component("signed", id("signed"), signed))
	add("a url that is a path", "URLs", "starts", component("signed", id("signed"), to("/test"), signed))
	add("a secret that cannot be read", "Variables", "starts", component("signed", id("signed"), robot("signed"), "name: secret, envRef: NOT_SET"))
	add("a store that is not there", "Missing stores", "starts", strings.Replace(component("signed", id("signed"), robot("signed"), "name: secret, secretKeyRef: {name: x}"), "{secretStore: secrets}", "{secretStore: absent}", 1))
	add("a property twice", "Properties twice", "starts", component("signed", id("signed"), robot("another"), robot("signed"), signed))
	add("a mapping as a value", "Mappings", "starts", component("signed", "name: id, value: {uuid}", robot("signed"), signed))
	add("a file that is no YAML", "Bad documents", "starts", sound, "apiVersion: [dapr.io/v1alpha1")
	add("two components of one name", "", "", sound, sound)
	add("two of one name, one for another application", "One name twice", "starts", sound, sound+"scopes: [another]\n")
	add("another end of a document", "Separators", "answer posts", component("first", id("first"), robot("first"))+"...\n"+sound)
	add("ignoreErrors as a text", "ignoreErrors", "answer posts", another("version: v1", "version: v1\n  ignoreErrors: \"true\""))
	add("a name with a slash", "Names", "starts", sound, another(`"signed"`, `"a/b"`))
	add("another type of binding", "Other components", "starts not through the socket", sound, typed("bindings.kafka", "kafka", "", []string{id("kafka")}))
	add("the specification's type", "Types", "starts", another("bindings.dingtalk.webhook", "bindings.nacos"))
	add("a type in capitals", "Types", "starts", another("bindings.dingtalk.webhook", "BINDINGS.DINGTALK.WEBHOOK"))
	add("no component", "", "")
	return worlds
}

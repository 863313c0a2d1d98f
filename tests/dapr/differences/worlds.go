package main

import (
	"fmt"
	"net/http"
	"strings"
	"time"
)

const secret = "SEC0123456789abcdef"

// Component files, with or without an application, and what is asked there.
type world struct {
	name string
	app  bool
	// ROBOT, NOBODY and FOLDER in the files are this run's.
	files       map[string]string
	environment []string
	// Programs may end instead of serving: that is what is seen.
	mayEnd bool
	cases  []test
}

// A component file. Properties are YAML's own pairs.
func component(name string, properties ...string) string {
	return typed("bindings.dingtalk.webhook", name, "", properties)
}

// One that does not prevent the start.
func doubtful(name string, properties ...string) string {
	return typed("bindings.dingtalk.webhook", name, "  ignoreErrors: true\n", properties)
}

func typed(kind, name, spec string, properties []string) string {
	head, auth := "", ""
	for _, property := range properties {
		if strings.Contains(property, "secretKeyRef") && !strings.Contains(property, "NOSTORE") {
			auth = "auth: {secretStore: secrets}\n"
		}
	}
	head = "apiVersion: dapr.io/v1alpha1\nkind: Component\nmetadata: {name: \"" + name + "\"}\n" + auth
	head += "spec:\n  type: " + kind + "\n  version: v1\n" + spec + "  metadata:\n"
	// Or what one case makes DingTalk refuse would be withheld in the next. Dapr's binding does not know the property.
	head += "  - {name: rateLimit, value: \"0\"}\n"
	for _, property := range properties {
		head += "  - {" + property + "}\n"
	}
	return head
}

func id(name string) string     { return fmt.Sprintf("name: id, value: %q", name+"_id") }
func to(url string) string      { return fmt.Sprintf("name: url, value: %q", url) }
func robot(place string) string { return to("http://ROBOT/" + place + "/send?access_token=TOKEN") }

var signed = fmt.Sprintf("name: secret, value: %q", secret)

const variables = `{apiVersion: dapr.io/v1alpha1, kind: Component, metadata: {name: variables}, spec: {type: secretstores.local.env, version: v1}}`

func files(texts map[string]string) map[string]string {
	files := map[string]string{}
	for name, text := range texts {
		if !strings.Contains(name, ".") {
			name += ".yaml"
		}
		files[name] = text
	}
	return files
}

func alone() map[string]string {
	texts := map[string]string{
		"signed":   component("signed", id("signed"), robot("signed"), signed),
		"unsigned": component("unsigned", id("unsigned"), robot("unsigned")),
		"empty":    component("empty", id("empty"), robot("empty"), `name: secret, value: ""`),
		// URLs.
		"bare":          component("bare", id("bare"), to("http://ROBOT/bare"), signed),
		"fragment":      component("fragment", id("fragment"), to("http://ROBOT/fragment/send?access_token=TOKEN#part"), signed),
		"stale":         component("stale", id("stale"), to("http://ROBOT/stale/send?access_token=TOKEN&timestamp=1577262236757&sign=old"), signed),
		"staleunsigned": component("staleunsigned", id("staleunsigned"), to("http://ROBOT/staleunsigned/send?timestamp=1577262236757&access_token=TOKEN&sign=old")),
		"spaced":        component("spaced", id("spaced"), to(" http://ROBOT/spaced/send?access_token=TOKEN "), signed),
		"chinese":       component("chinese", id("chinese"), to("http://ROBOT/chinese/机器人?access_token=TOKEN&a=b c"), signed),
		"noscheme":      doubtful("noscheme", id("noscheme"), to("ROBOT/noscheme/send?access_token=TOKEN")),
		"nourl":         doubtful("nourl", id("nourl"), to("hello")),
		"path":          doubtful("path", id("path"), to("/test")),
		"ftp":           doubtful("ftp", id("ftp"), to("ftp://ROBOT/ftp")),
		"nobody":        component("nobody", id("nobody"), to("http://NOBODY/robot/send?access_token=TOKEN"), signed),
		// Properties.
		"noid":      doubtful("noid", robot("noid")),
		"nourlkey":  doubtful("nourlkey", id("nourlkey")),
		"capitals":  component("capitals", `name: ID, value: "capitals_id"`, `name: URL, value: "http://ROBOT/capitals/send?access_token=TOKEN"`, `name: SECRET, value: "`+secret+`"`),
		"twice":     doubtful("twice", id("twice"), robot("twice"), `name: URL, value: "http://ROBOT/twice/2"`),
		"unknown":   component("unknown", id("unknown"), robot("unknown"), `name: colour, value: "red"`),
		"number":    component("number", "name: id, value: 0012", robot("number")),
		"blank":     doubtful("blank", id("blank"), robot("blank"), `name: secret, value: "`+secret+`\n"`),
		"escaped":   component("escaped", id("escaped"), `name: url, value: "http:\/\/ROBOT\/escaped\/send"`),
		"alias":     typed("bindings.alicloud.dingtalk.webhook", "alias", "", []string{id("alias"), robot("alias")}),
		"cased":     typed("bindings.DingTalk.Webhook", "cased", "  ignoreErrors: true\n", []string{id("cased"), robot("cased")}),
		"nacos":     typed("bindings.nacos", "nacos", "  ignoreErrors: true\n", []string{id("nacos"), robot("nacos")}),
		"kafka":     typed("bindings.kafka", "kafka", "  ignoreErrors: true\n", []string{id("kafka")}),
		"elsewhere": component("elsewhere", id("elsewhere"), robot("elsewhere")) + "scopes: [another]\n",
		"version":   strings.Replace(component("version", id("version"), robot("version")), "version: v1", "version: v2\n  ignoreErrors: true", 1),
		"patience":  strings.Replace(component("patience", id("patience"), robot("patience")), "version: v1", "version: v1\n  initTimeout: soon", 1),
		"truthful":  strings.Replace(component("truthful", id("truthful"), robot("truthful")), "version: v1", `version: v1`+"\n  ignoreErrors: \"true\"", 1),
		"output":    component("output", id("output"), robot("output"), `name: direction, value: "output"`),
		"input":     component("input", id("input"), robot("input"), `name: direction, value: "INPUT"`),
		"name":      component("a b", id("name"), robot("name")),
		// Secrets.
		"secrets":      `{apiVersion: dapr.io/v1alpha1, kind: Component, metadata: {name: secrets}, spec: {type: secretstores.local.file, version: v1, metadata: [{name: secretsFile, value: "FOLDER/secrets.json"}]}}`,
		"secrets.json": `{"robot": {"secret": "` + secret + `", "empty": "", "one": 1}}`,
		"stored":       component("stored", id("stored"), robot("stored"), "name: secret, secretKeyRef: {name: \"robot:secret\", key: \"robot:secret\"}"),
		"missing":      doubtful("missing", id("missing"), robot("missing"), "name: secret, secretKeyRef: {name: nobody}"),
		"void":         doubtful("void", id("void"), robot("void"), "name: secret, secretKeyRef: {name: \"robot:empty\"}"),
		"nameless":     doubtful("nameless", id("nameless"), robot("nameless"), "name: secret, secretKeyRef: {key: x}"),
		"nostore":      doubtful("nostore", id("nostore"), robot("nostore"), "name: secret, secretKeyRef: {name: NOSTORE}"),
		"storeless":    strings.Replace(doubtful("storeless", id("storeless"), robot("storeless"), "name: secret, secretKeyRef: {name: x}"), "{secretStore: secrets}", "{secretStore: absent}", 1),
		"variable":     component("variable", id("variable"), robot("variable"), "name: secret, envRef: SIGNING_SECRET"),
		"unset":        doubtful("unset", id("unset"), robot("unset"), "name: secret, envRef: NOT_SET"),
		"blocked":      doubtful("blocked", id("blocked"), robot("blocked"), "name: secret, envRef: DAPR_SECRET"),
		"pod":          doubtful("pod", `name: id, value: "{podName}"`, robot("pod")),
		"template":     component("template", `name: id, value: "{namespace} {appID}"`, robot("template")),
		"document":     "# nothing but a comment\n---\n" + component("document", id("document"), robot("document")) + "---\n" + component("second", id("second"), robot("second")),
		"others":       "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: others}\n",
	}
	// Robots that answer in other ways.
	for name := range robots() {
		if _, there := texts[name]; name != "" && !there {
			texts[name] = component(name, id(name), robot(name), signed)
		}
	}
	texts["redirect"] = component("redirect", id("redirect"), robot("redirect"), signed)
	return files(texts)
}

func answer(status int, body string) http.HandlerFunc {
	return func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		w.WriteHeader(status)
		fmt.Fprint(w, body)
	}
}

// What a robot answers, by the first part of the path.
func robots() map[string]http.HandlerFunc {
	return map[string]http.HandlerFunc{
		"":            answer(200, `{"errcode":0,"errmsg":"ok"}`),
		"keywords":    answer(200, `{"errcode":310000,"errmsg":"description:关键词不匹配;solution:请联系群管理员查看此机器人的关键词,并在发送的信息中包含此关键词;"}`),
		"limited":     answer(200, `{"errcode":130101,"errmsg":"send too fast, exceed 20 times per minute"}`),
		"busy":        answer(200, `{"errcode":-1,"errmsg":"系统繁忙"}`),
		"speechless":  answer(200, `{"errcode":40035}`),
		"quoted":      answer(200, `{"errcode":"0","errmsg":"ok"}`),
		"quotedfault": answer(200, `{"errcode":"310000","errmsg":"sign not match"}`),
		"fraction":    answer(200, `{"errcode":0.5,"errmsg":"ok"}`),
		"nocode":      answer(200, `{}`),
		"null":        answer(200, `null`),
		"throttled":   answer(200, `{"status":1111,"wait":5,"punish":"deny","source":"x","url":"https://oapi.dingtalk.com/"}`),
		"nothing":     answer(200, ``),
		"page":        answer(200, `<html><body>sign in</body></html>`),
		"list":        answer(200, `[]`),
		"trailing":    answer(200, `{"errcode":0,"errmsg":"ok"} and more`),
		"capitalcode": answer(200, `{"ErrCode":7,"ERRMSG":"shouted"}`),
		"echo": func(w http.ResponseWriter, r *http.Request) {
			fmt.Fprintf(w, `{"errcode":1,"errmsg":"what is %s?"}`, r.URL.RawQuery)
		},
		"created":     answer(201, `{"errcode":0,"errmsg":"ok"}`),
		"nocontent":   func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(204) },
		"forbidden":   answer(403, `{"errcode":0,"errmsg":"ok"}`),
		"teapot":      answer(404, `not here`),
		"broken":      answer(500, `{"errcode":0,"errmsg":"ok"}`),
		"unavailable": answer(503, ``),
		"large":       answer(200, `{"errcode":0,"errmsg":"`+strings.Repeat("o", 100_000)+`"}`),
		"verbose":     answer(200, `{"errcode":1,"errmsg":"`+strings.Repeat("长", 2_000)+`"}`),
		"cut": func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Length", "100")
			fmt.Fprint(w, `{"errcode":`)
		},
		"closed": func(http.ResponseWriter, *http.Request) { panic(http.ErrAbortHandler) },
		"hanging": func(_ http.ResponseWriter, r *http.Request) {
			select {
			case <-r.Context().Done():
			case <-time.After(50 * time.Second):
			}
		},
	}
}

func withApplication() map[string]string {
	texts := map[string]string{
		"routed": component("routed", id("routed"), robot("routed"), `name: route, value: "other/../way"`),
		"sender": component("sender", id("sender"), robot("sender"), `name: direction, value: "output"`),
		"both":   component("both", id("both"), robot("both"), `name: direction, value: "input, output"`),
		"fresh":  component("fresh", `name: id, value: "{uuid}"`, robot("fresh")),
	}
	for name := range applications() {
		if name != "" && name != "way" {
			texts[name] = component(name, id(name), robot(name))
		}
	}
	return files(texts)
}

// What an application answers, by the first part of the path.
func applications() map[string]http.HandlerFunc {
	reading := func(answer http.HandlerFunc) http.HandlerFunc {
		return func(w http.ResponseWriter, r *http.Request) {
			if r.Method != http.MethodOptions {
				answer(w, r)
			}
		}
	}
	refusing := func(status int, post http.HandlerFunc) http.HandlerFunc {
		return func(w http.ResponseWriter, r *http.Request) {
			if r.Method == http.MethodOptions {
				w.WriteHeader(status)
			} else {
				post(w, r)
			}
		}
	}
	return map[string]http.HandlerFunc{
		"":           http.NotFound,
		"both":       reading(answer(200, ``)),
		"way":        reading(answer(200, ``)),
		"fresh":      reading(answer(200, ``)),
		"silent":     reading(answer(200, ``)),
		"emptied":    reading(func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(204) }),
		"accepted":   reading(answer(202, ``)),
		"answering":  reading(answer(200, `{"msgtype":"text","text":{"content":"pong"}}`)),
		"forwarding": reading(answer(200, `{"to":["forwarding"],"data":{"msgtype":"text","text":{"content":"on"}},"concurrency":"parallel"}`)),
		"failing":    reading(answer(500, `no database`)),
		"denying":    reading(answer(404, ``)),
		"methodless": refusing(405, answer(200, ``)),
		"unwilling":  refusing(404, answer(200, ``)),
		"faulty":     refusing(500, answer(200, ``)),
		"dropping":   reading(func(http.ResponseWriter, *http.Request) { panic(http.ErrAbortHandler) }),
	}
}

package main

import (
	"bufio"
	"bytes"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"regexp"
	"slices"
	"sort"
	"strings"
	"time"

	"dapr-tests/support"
)

// What was seen of one case: a name for each thing that can be seen, and its text.
type seen map[string]string

var (
	signs      = regexp.MustCompile(`sign=[^&"\s]+`)
	timestamps = regexp.MustCompile(`timestamp=\d{5,}`)
	loopback   = regexp.MustCompile(`127\.0\.0\.1:\d+`)
	ports      = regexp.MustCompile(`"port":\d+`)
	uuids      = regexp.MustCompile(`[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}`)
)

func normal(text string) string {
	text = signs.ReplaceAllString(text, "sign=…")
	text = timestamps.ReplaceAllString(text, "timestamp=…")
	text = loopback.ReplaceAllString(text, "127.0.0.1:PORT")
	text = ports.ReplaceAllString(text, `"port":PORT`)
	return uuids.ReplaceAllString(text, "UUID")
}

// Sends a request as it is written, and says what came back. Go's own client would mend some of it.
func exchange(s *sidecar, method, target string, header [][2]string, body []byte) (seen, error) {
	connection, err := net.DialTimeout("tcp", s.http, 5*time.Second)
	if err != nil {
		return nil, err
	}
	defer connection.Close()
	connection.SetDeadline(time.Now().Add(60 * time.Second))
	var request bytes.Buffer
	fmt.Fprintf(&request, "%s %s HTTP/1.1\r\nContent-Length: %d\r\nConnection: close\r\n", method, target, len(body))
	if !slices.ContainsFunc(header, func(pair [2]string) bool { return pair[0] == "Host" }) {
		header = append(header, [2]string{"Host", s.http})
	}
	for _, pair := range header {
		fmt.Fprintf(&request, "%s: %s\r\n", pair[0], pair[1])
	}
	request.WriteString("\r\n")
	request.Write(body)
	// Whoever refuses a long body does not read all of it.
	go connection.Write(request.Bytes())
	answer, err := http.ReadResponse(bufio.NewReader(connection), &http.Request{Method: method})
	if err != nil {
		return seen{"answer": "none: " + s.normal(err.Error())}, nil
	}
	text, err := io.ReadAll(answer.Body)
	if err != nil {
		return nil, err
	}
	found := seen{"status": fmt.Sprint(answer.StatusCode)}
	for name, values := range answer.Header {
		if name != "Date" && name != "Content-Length" {
			found["header "+name] = s.normal(strings.Join(values, " | "))
		}
	}
	var members map[string]json.RawMessage
	if answer.StatusCode >= 400 && json.Unmarshal(text, &members) == nil && members["errorCode"] != nil {
		for name, value := range members {
			var text string
			if json.Unmarshal(value, &text) != nil {
				text = string(value)
			}
			found[name] = s.normal(text)
		}
	} else if strings.HasSuffix(target, "/v1.0/metadata") && json.Unmarshal(text, &members) == nil {
		s.inventory(members, found)
		found["line break"] = fmt.Sprint(bytes.HasSuffix(text, []byte("\n")))
	} else {
		found["body"] = s.normal(string(text))
	}
	return found, nil
}

// What a sidecar says of itself: each member, and each component.
func (s *sidecar) inventory(members map[string]json.RawMessage, found seen) {
	for name, value := range members {
		if name != "components" {
			var features []string
			if name == "enabledFeatures" && json.Unmarshal(value, &features) == nil {
				// Go's maps have no order.
				slices.Sort(features)
				value, _ = json.Marshal(features)
			}
			found["member "+name] = s.normal(string(value))
			continue
		}
		var components []json.RawMessage
		json.Unmarshal(value, &components)
		for _, component := range components {
			var named struct{ Name, Type string }
			json.Unmarshal(component, &named)
			kind, _, _ := strings.Cut(named.Type, ".")
			found[kind+" "+named.Name] = string(component)
		}
	}
}

// Adds what came to the robot and to the application.
func (s *sidecar) arrivals(place, secret string, later bool, found seen) {
	posts := s.robot.Take(place)
	for waited := 0; later && len(posts) == 0 && waited < 30; waited++ {
		time.Sleep(100 * time.Millisecond)
		posts = s.robot.Take(place)
	}
	found["posts"] = fmt.Sprint(len(posts))
	for i, post := range posts {
		s.arrival(fmt.Sprintf("post %d ", i+1), post, secret, found)
	}
	if elsewhere := s.other.Take(place); len(elsewhere) > 0 {
		found["posts elsewhere"] = fmt.Sprint(len(elsewhere))
		s.arrival("elsewhere 1 ", elsewhere[0], secret, found)
	}
	if s.app == nil {
		return
	}
	var deliveries []support.Request
	for _, event := range s.app.Take(place) {
		// How often the application is asked whether it reads is another case's matter.
		if event.Method != http.MethodOptions {
			deliveries = append(deliveries, event)
		}
	}
	found["deliveries"] = fmt.Sprint(len(deliveries))
	for i, event := range deliveries {
		s.arrival(fmt.Sprintf("delivery %d ", i+1), event, "", found)
	}
}

func (s *sidecar) arrival(what string, request support.Request, secret string, found seen) {
	found[what+"method"] = request.Method
	found[what+"target"] = s.normal(request.Target)
	if query := request.Target; strings.Contains(query, "sign=") {
		found[what+"signature"] = verified(query, secret)
	}
	for name, values := range request.Header {
		found[what+"header "+name] = s.normal(strings.Join(values, " | "))
	}
	found[what+"body"] = string(request.Body)
}

// Whether the signature is right, and what is wrong with the query where it is not.
func verified(target, secret string) string {
	_, query, found := strings.Cut(target, "?")
	if !found {
		return "none: there is no query"
	}
	values, err := url.ParseQuery(query)
	if err != nil {
		return "none: " + err.Error()
	}
	if len(values["sign"]) > 1 || len(values["timestamp"]) > 1 {
		return "two"
	}
	mac := hmac.New(sha256.New, []byte(secret))
	mac.Write([]byte(values.Get("timestamp") + "\n" + secret))
	if values.Get("sign") == base64.StdEncoding.EncodeToString(mac.Sum(nil)) {
		return "right"
	}
	return "wrong"
}

var wrapping = regexp.MustCompile(`rpc error: code = (\w+) desc = `)

// Takes off what daprd and the component put around the text of an error, so that the text itself is compared.
func unwrap(found seen) {
	text := found["message"]
	code := wrapping.FindStringSubmatchIndex(text)
	if code == nil {
		return
	}
	found["message, wrapped"] = text
	text = text[:code[0]] + text[code[1]:]
	if items := strings.LastIndex(text, " (error="); items >= 0 {
		text = text[:items]
	}
	found["message"] = text
}

// One thing that differs, and how both had it.
type difference struct{ what, theirs, ours string }

func compare(theirs, ours seen) []difference {
	var found []difference
	if starts := func(seen seen) string {
		if seen["starts"] != "" {
			return seen["starts"]
		}
		return "yes"
	}; starts(theirs) != starts(ours) {
		return []difference{{"starts", starts(theirs), starts(ours)}}
	}
	add := func(what string) { found = append(found, difference{what, theirs[what], ours[what]}) }
	skip := func(string) bool { return false }
	// One difference, not one of each thing that follows from it.
	if theirs["status"] != ours["status"] {
		whole := func(seen seen) string {
			return strings.TrimSpace(seen["status"] + " " + seen["errorCode"] + " " + seen["message"] + seen["body"])
		}
		found = append(found, difference{"answer", whole(theirs), whole(ours)})
		skip = func(what string) bool {
			return slices.Contains([]string{"status", "errorCode", "message", "reason", "details", "body", "header Content-Type"}, what)
		}
	}
	uncounted := map[string]bool{
		"post": theirs["posts"] != ours["posts"], "delivery": theirs["deliveries"] != ours["deliveries"],
		"elsewhere": theirs["posts elsewhere"] != ours["posts elsewhere"],
	}
	names := map[string]bool{}
	for _, seen := range []seen{theirs, ours} {
		for what := range seen {
			names[what] = true
		}
	}
	sorted := make([]string, 0, len(names))
	for what := range names {
		sorted = append(sorted, what)
	}
	sort.Strings(sorted)
	for _, what := range sorted {
		first, _, _ := strings.Cut(what, " ")
		switch {
		case theirs[what] == ours[what], skip(what):
		case uncounted[first]:
		// Follows from the body.
		case strings.HasSuffix(what, "header Content-Length") && theirs[strings.TrimSuffix(what, "header Content-Length")+"body"] != ours[strings.TrimSuffix(what, "header Content-Length")+"body"]:
		// The beginning is what alerts look for.
		case what == "message" && strings.HasPrefix(ours[what], theirs[what]):
			found = append(found, difference{"message, continued", theirs[what], ours[what]})
		case what == "message" && strings.Contains(shared(theirs[what], ours[what]), "failed. "):
			found = append(found, difference{"message, behind its beginning", theirs[what], ours[what]})
		case strings.HasSuffix(what, " target") && strings.Replace(ours[what], "timestamp=…&sign=…", "sign=…&timestamp=…", 1) == theirs[what]:
			found = append(found, difference{what + ", order", theirs[what], ours[what]})
		case strings.HasSuffix(what, " body") && rewritten(ours[what]) == theirs[what]:
			found = append(found, difference{what + ", rewritten", theirs[what], ours[what]})
		default:
			add(what)
		}
	}
	return found
}

// How both begin.
func shared(one, other string) string {
	end := 0
	for end < min(len(one), len(other)) && one[end] == other[end] {
		end++
	}
	return one[:end]
}

// JSON as Go writes it again.
func rewritten(text string) string {
	var value any
	if json.Unmarshal([]byte(text), &value) != nil {
		return text
	}
	again, err := json.Marshal(value)
	if err != nil {
		return text
	}
	return string(again)
}

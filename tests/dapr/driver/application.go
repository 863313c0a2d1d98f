package main

import (
	"encoding/json"
	"io"
	"net"
	"net/http"
	"strings"
	"sync"
)

// What came to the application.
type delivery struct {
	path   string
	header http.Header
	body   []byte
	// Whether whoever has sent it, or this application, is gone.
	gone func() bool
}

// The text that a person said, or that a message has.
func (d delivery) text() string {
	var message struct{ Text struct{ Content string } }
	json.Unmarshal(d.body, &message)
	return strings.TrimSpace(message.Text.Content)
}

// An application behind daprd, at an address that it keeps when it goes and comes back.
type application struct {
	port     string
	mutex    sync.Mutex
	server   *http.Server
	seen     []delivery
	answer   func(delivery) (int, string)
	notReads map[string]bool
}

func accepting(delivery) (int, string) { return 200, "" }

func newApplication(port string) *application {
	return &application{port: port, answer: accepting, notReads: map[string]bool{}}
}

// Listens. Who is asked whether it reads says yes.
func (a *application) open() error {
	listener, err := net.Listen("tcp", "127.0.0.1:"+a.port)
	if err != nil {
		return err
	}
	server := &http.Server{Handler: a}
	a.mutex.Lock()
	a.server = server
	a.mutex.Unlock()
	go server.Serve(listener)
	return nil
}

// Is gone, with every connection, whatever was going on.
func (a *application) close() {
	a.mutex.Lock()
	server := a.server
	a.server = nil
	a.mutex.Unlock()
	if server != nil {
		server.Close()
	}
}

func (a *application) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	body, err := io.ReadAll(r.Body)
	if r.Method == http.MethodOptions {
		if a.notReads[r.URL.Path] {
			w.WriteHeader(http.StatusNotFound)
		}
		return
	}
	// What has not come whole was not received.
	if err != nil {
		return
	}
	event := delivery{r.URL.Path, r.Header.Clone(), body, func() bool { return r.Context().Err() != nil }}
	a.mutex.Lock()
	a.seen = append(a.seen, event)
	answer := a.answer
	a.mutex.Unlock()
	status, text := answer(event)
	w.WriteHeader(status)
	io.WriteString(w, text)
}

// From now on it answers so.
func (a *application) answers(answer func(delivery) (int, string)) {
	a.mutex.Lock()
	defer a.mutex.Unlock()
	a.answer = answer
}

// What came with this text, in any of its forms.
func (a *application) received(text string) []delivery {
	a.mutex.Lock()
	defer a.mutex.Unlock()
	var found []delivery
	for _, event := range a.seen {
		if event.text() == text {
			found = append(found, event)
		}
	}
	return found
}

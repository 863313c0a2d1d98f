package support

import (
	"io"
	"net"
	"net/http"
	"strings"
	"sync"
)

// What came to a server, as it came.
type Request struct {
	Method, Target string
	Header         http.Header
	Body           []byte
}

// A server that records what it is sent, by the first part of the path: each component has one of its own there, so that
// cases do not see each other's requests.
type Recorder struct {
	Address string
	mutex   sync.Mutex
	seen    map[string][]Request
	server  *http.Server
}

// Answers by the first part of the path. What has none is answered as the one without a name says.
func Record(answers map[string]http.HandlerFunc) (*Recorder, error) {
	return RecordAt("127.0.0.1:0", answers)
}

func RecordAt(address string, answers map[string]http.HandlerFunc) (*Recorder, error) {
	listener, err := net.Listen("tcp", address)
	if err != nil {
		return nil, err
	}
	recorder := &Recorder{Address: listener.Addr().String(), seen: map[string][]Request{}}
	recorder.server = &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		header := r.Header.Clone()
		header.Set("Host", r.Host)
		if len(r.TransferEncoding) > 0 {
			header.Set("Transfer-Encoding", strings.Join(r.TransferEncoding, ","))
		}
		place := place(r.RequestURI)
		recorder.mutex.Lock()
		recorder.seen[place] = append(recorder.seen[place], Request{r.Method, r.RequestURI, header, body})
		recorder.mutex.Unlock()
		answer, known := answers[place]
		if !known {
			answer = answers[""]
		}
		answer(w, r)
	})}
	go recorder.server.Serve(listener)
	return recorder, nil
}

func place(target string) string {
	target = strings.TrimPrefix(target, "/")
	if end := strings.IndexAny(target, "/&?#"); end >= 0 {
		target = target[:end]
	}
	return target
}

// What came to this place since it was asked last.
func (r *Recorder) Take(place string) []Request {
	r.mutex.Lock()
	defer r.mutex.Unlock()
	seen := r.seen[place]
	delete(r.seen, place)
	return seen
}

func (r *Recorder) Close() { r.server.Close() }

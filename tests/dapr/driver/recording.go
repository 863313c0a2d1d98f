package main

import (
	"errors"
	"io"
	"net/http"
)

// A robot that takes everything.
func recording() map[string]http.HandlerFunc {
	return map[string]http.HandlerFunc{"": func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		io.WriteString(w, `{"errcode":0,"errmsg":"ok"}`)
	}}
}

func errorsOf(all ...error) error { return errors.Join(all...) }

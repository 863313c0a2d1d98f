// Reads manifests with the types of Kubernetes' own API, strictly: a field that the API does not know, or a value of
// another type, is an error. Kinds of other APIs are named, not read.
package main

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	utilyaml "k8s.io/apimachinery/pkg/util/yaml"
	"sigs.k8s.io/json"
	"sigs.k8s.io/yaml"
)

var kinds = map[string]func() any{
	"v1 ConfigMap":             func() any { return &corev1.ConfigMap{} },
	"v1 PersistentVolumeClaim": func() any { return &corev1.PersistentVolumeClaim{} },
	"v1 Service":               func() any { return &corev1.Service{} },
	"apps/v1 Deployment":       func() any { return &appsv1.Deployment{} },
}

func read(path string) error {
	text, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	documents := utilyaml.NewYAMLReader(bufio.NewReader(bytes.NewReader(text)))
	for {
		document, err := documents.Read()
		if err == io.EOF {
			return nil
		}
		if err != nil {
			return err
		}
		var head struct {
			APIVersion string `json:"apiVersion"`
			Kind       string `json:"kind"`
			Metadata   struct {
				Name string `json:"name"`
			} `json:"metadata"`
		}
		if err := yaml.Unmarshal(document, &head); err != nil {
			return err
		}
		if head.Kind == "" {
			continue
		}
		is := "of another API"
		if known, found := kinds[head.APIVersion+" "+head.Kind]; found {
			text, err := yaml.YAMLToJSONStrict(document)
			if err != nil {
				return err
			}
			// As the API server reads: names are those of the API to the letter, which yaml.UnmarshalStrict is not.
			wrong, err := json.UnmarshalStrict(text, known())
			if err := errors.Join(append(wrong, err)...); err != nil {
				return fmt.Errorf("%s %s: %w", head.Kind, head.Metadata.Name, err)
			}
			is = "as its API has it"
		}
		fmt.Printf("%s\t%s %s\t%s\n", filepath.Base(path), head.Kind, head.Metadata.Name, is)
	}
}

func main() {
	for _, path := range os.Args[1:] {
		if err := read(path); err != nil {
			fmt.Fprintf(os.Stderr, "%s: %v\n", path, err)
			os.Exit(1)
		}
	}
}

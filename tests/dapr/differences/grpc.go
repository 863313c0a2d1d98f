package main

import (
	"context"
	"fmt"
	"maps"
	"strings"
	"time"

	runtime "github.com/dapr/dapr/pkg/proto/runtime/v1"
	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
)

// What data can be over gRPC alone: bytes, not JSON.
func bytesOnly() []test {
	refused := func(name, data string) test {
		return create(name, "signed", data).differs("Messages", "answer", "posts")
	}
	return []test{
		refused("no bytes", ""),
		refused("broken JSON as data", `{"msgtype":`),
		refused("bytes that are no UTF-8", "\xff\xfe"),
		create("plain text", "signed", "hi there").differs("Messages", "post 1 body"),
	}
}

// Whether a case can be asked over gRPC: some are about HTTP.
func (t test) overGRPC() bool {
	return t.body == nil && t.method == "" && t.target == "" && !t.slow
}

// The same case, asked over gRPC, where names of headers are small.
func (t test) asGRPC() test {
	reasons := map[string]string{}
	for what, row := range t.reasons {
		if name, isHeader := strings.CutPrefix(what, "header "); isHeader {
			what = "header " + strings.ToLower(name)
		}
		reasons[what] = row
	}
	maps.Copy(reasons, t.onlyGRPC)
	t.name, t.grpc, t.reasons = "gRPC: "+t.name, true, reasons
	return t
}

// Asks over gRPC, and names what is seen as it is named over HTTP, where it is the same thing.
func invoke(s *sidecar, t test) (seen, error) {
	connection, err := grpc.NewClient(s.grpc, grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		return nil, err
	}
	defer connection.Close()
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	for _, pair := range t.header {
		ctx = metadata.AppendToOutgoingContext(ctx, pair[0], pair[1])
	}
	request := &runtime.InvokeBindingRequest{Name: t.place, Operation: t.operation, Data: []byte(t.data), Metadata: t.metadata}
	var header metadata.MD
	answer, err := runtime.NewDaprClient(connection).InvokeBinding(ctx, request, grpc.Header(&header))
	failure, isStatus := status.FromError(err)
	if !isStatus {
		return nil, err
	}
	found := seen{"status": failure.Code().String()}
	for name, values := range header {
		// The library's, as `Date` is HTTP's; an answer without data has the type in its trailers.
		if name == "content-type" || name == "date" {
			continue
		}
		found["header "+name] = s.normal(strings.Join(values, " | "))
	}
	if err != nil {
		found["message"] = s.normal(failure.Message())
		for _, detail := range failure.Details() {
			if info, isInfo := detail.(*errdetails.ErrorInfo); isInfo {
				found["reason"] = info.GetReason() + " " + info.GetDomain()
				found["details"] = s.normal(fmt.Sprint(info.GetMetadata()))
			} else {
				found[fmt.Sprintf("detail %T", detail)] = s.normal(fmt.Sprint(detail))
			}
		}
		return found, nil
	}
	found["body"] = s.normal(string(answer.GetData()))
	for name, value := range answer.GetMetadata() {
		found["metadata "+name] = s.normal(value)
	}
	return found, nil
}

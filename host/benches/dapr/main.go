// Dapr's own DingTalk binding, as a contender of the benchmark (../contender/mod.rs): an application that has the binding in
// its own process, as the others have theirs.
package main

import (
	"bufio"
	"context"
	"fmt"
	"os"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/dapr/components-contrib/bindings"
	"github.com/dapr/components-contrib/bindings/alicloud/dingtalk/webhook"
	"github.com/dapr/components-contrib/metadata"
	"github.com/dapr/kit/logger"
)

func main() {
	if err := serve(); err != nil {
		fmt.Println("error", err)
		os.Exit(1)
	}
}

// Lines of url, secret and message, and then one for each block of calls.
func serve() error {
	orders := bufio.NewScanner(os.Stdin)
	order := func() string { orders.Scan(); return orders.Text() }
	properties := map[string]string{"id": "bench", "url": order(), "secret": order()}
	message := []byte(order())
	binding := webhook.NewDingTalkWebhook(logger.NewLogger("bench"))
	if err := binding.Init(context.Background(), bindings.Metadata{Base: metadata.Base{Properties: properties}}); err != nil {
		return err
	}
	fmt.Println("ready")
	for orders.Scan() {
		var atOnce, atLeast, milliseconds int64
		if _, err := fmt.Sscanf(orders.Text(), "block %d %d %d", &atOnce, &atLeast, &milliseconds); err != nil {
			return fmt.Errorf("%q is no order: %w", orders.Text(), err)
		}
		if err := block(binding, message, atOnce, atLeast, time.Duration(milliseconds)*time.Millisecond); err != nil {
			return err
		}
	}
	return orders.Err()
}

// So many callers until the time is over and so many calls were made. Prints calls, nanoseconds, and those of the processor.
func block(binding bindings.OutputBinding, message []byte, atOnce, atLeast int64, limit time.Duration) error {
	var callers sync.WaitGroup
	var done atomic.Int64
	var failed atomic.Value
	before, start := processor(), time.Now()
	for range atOnce {
		callers.Go(func() {
			for time.Since(start) < limit || done.Load() < atLeast {
				request := &bindings.InvokeRequest{Operation: bindings.CreateOperation, Data: message}
				if _, err := binding.Invoke(context.Background(), request); err != nil {
					failed.Store(err)
					return
				}
				done.Add(1)
			}
		})
	}
	callers.Wait()
	took, used := time.Since(start), processor()-before
	if err, is := failed.Load().(error); is {
		return err
	}
	fmt.Println(done.Load(), took.Nanoseconds(), used.Nanoseconds())
	return nil
}

// What this process has used of the processor, in its own code and in the kernel.
func processor() time.Duration {
	var usage syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &usage); err != nil {
		panic(err)
	}
	return time.Duration(usage.Utime.Nano() + usage.Stime.Nano())
}

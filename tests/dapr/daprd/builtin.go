//go:build builtin

package main

import (
	"github.com/dapr/components-contrib/bindings"
	"github.com/dapr/components-contrib/bindings/alicloud/dingtalk/webhook"
	loader "github.com/dapr/dapr/pkg/components/bindings"
	"github.com/dapr/kit/logger"
)

// As cmd/daprd/components/bindings_alicloud_dingtalk_webhook.go of Dapr does it.
func init() {
	loader.DefaultRegistry.RegisterInputBinding(func(log logger.Logger) bindings.InputBinding {
		return webhook.NewDingTalkWebhook(log)
	}, "dingtalk.webhook", "alicloud.dingtalk.webhook")
	loader.DefaultRegistry.RegisterOutputBinding(func(log logger.Logger) bindings.OutputBinding {
		return webhook.NewDingTalkWebhook(log)
	}, "dingtalk.webhook", "alicloud.dingtalk.webhook")
}

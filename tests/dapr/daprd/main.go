// Dapr's sidecar, the real one, with no components but the local secret stores: those that Dapr publishes bring clients of
// a hundred databases and clouds. With the tag `builtin` it also has Dapr's own DingTalk binding (builtin.go).
package main

import (
	"github.com/dapr/components-contrib/secretstores"
	"github.com/dapr/components-contrib/secretstores/local/env"
	"github.com/dapr/components-contrib/secretstores/local/file"
	loader "github.com/dapr/dapr/pkg/components/secretstores"
	"github.com/dapr/kit/logger"
)

func main() {
	loader.DefaultRegistry.RegisterComponent(func(log logger.Logger) secretstores.SecretStore {
		return env.NewEnvSecretStore(log)
	}, "local.env")
	loader.DefaultRegistry.RegisterComponent(func(log logger.Logger) secretstores.SecretStore {
		return file.NewLocalSecretStore(log)
	}, "local.file")
	Run()
}

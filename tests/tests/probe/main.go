// A server that asks the anonymous authenticator about each request without a credential, as the API server does.
package main

import (
	"fmt"
	"net"
	"net/http"
	"os"

	"k8s.io/apiserver/pkg/authentication/request/anonymous"
)

func main() {
	authenticator := anonymous.New(os.Args[2:])
	if os.Args[1] == "--closure" {
		authenticator = anonymous.NewAuthenticator()
	}
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		panic(err)
	}
	fmt.Println(listener.Addr())
	panic(http.Serve(listener, http.HandlerFunc(func(writer http.ResponseWriter, request *http.Request) {
		if request.Header.Get("Authorization") != "" {
			writer.WriteHeader(http.StatusAccepted)
		} else if _, authenticated, _ := authenticator.AuthenticateRequest(request); !authenticated {
			writer.WriteHeader(http.StatusUnauthorized)
		}
	})))
}

// A server that asks the anonymous authenticator about each request without a credential, as the API server does.
//
// main FORM [PATH...] serves HTTP on a port of its own and prints its address; with --secure-port=N, --insecure-port=N it
// serves TLS and HTTP there.
package main

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"math/big"
	"net"
	"net/http"
	"os"
	"strings"

	"k8s.io/apiserver/pkg/authentication/request/anonymous"
)

func main() {
	secure, insecure, paths := "", "0", []string{}
	for _, argument := range os.Args[2:] {
		if port, found := strings.CutPrefix(argument, "--secure-port="); found {
			secure = port
		} else if port, found := strings.CutPrefix(argument, "--insecure-port="); found {
			insecure = port
		} else {
			paths = append(paths, argument)
		}
	}
	authenticator := anonymous.New(paths)
	if os.Args[1] == "--closure" {
		authenticator = anonymous.NewAuthenticator()
	}
	handler := http.HandlerFunc(func(writer http.ResponseWriter, request *http.Request) {
		if request.Header.Get("Authorization") != "" {
			writer.WriteHeader(http.StatusAccepted)
		} else if _, authenticated, _ := authenticator.AuthenticateRequest(request); !authenticated {
			writer.WriteHeader(http.StatusUnauthorized)
		}
	})
	if secure != "" {
		server := &http.Server{Handler: handler, TLSConfig: &tls.Config{Certificates: []tls.Certificate{certificate()}}}
		listener := listen(secure)
		go func() { panic(server.ServeTLS(listener, "", "")) }()
	}
	listener := listen(insecure)
	fmt.Println(listener.Addr())
	panic(http.Serve(listener, handler))
}

func listen(port string) net.Listener {
	listener, err := net.Listen("tcp", "127.0.0.1:"+port)
	if err != nil {
		panic(err)
	}
	return listener
}

func certificate() tls.Certificate {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		panic(err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(1)}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	if err != nil {
		panic(err)
	}
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}
}

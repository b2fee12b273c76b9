// Command fetch-secret reads a secret of a vault, and tells as whom.
//
// It holds no credential and cannot reach the endpoint that gives tokens: it
// imports cloud:identity, and whoever runs it decides what it gets.
package main

import (
	"cmp"
	"errors"
	"fmt"
	"os"
	"strings"

	wit "go.bytecodealliance.org/pkg/wit/types"
)

func main() {
	if err := fetchSecret(os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, "error:", err)
		os.Exit(1)
	}
}

func fetchSecret(args []string) error {
	if len(args) != 2 {
		return errors.New("usage: fetch-secret VAULT-URL SECRET")
	}
	vault, err := ParseVault(args[0])
	if err != nil {
		return err
	}

	token, err := GetToken(Refusal{})
	if err != nil {
		return err
	}
	secret, err := vault.Secret(args[1], token)
	// A vault may refuse a token before it expires, for instance after a
	// change of policy. Another one may do.
	var status *StatusError
	if errors.As(err, &status) && status.Code == 401 {
		token, err = GetToken(Refusal{Token: token.Token, Claims: status.Claims})
		if err != nil {
			return err
		}
		secret, err = vault.Secret(args[1], token)
	}
	if err != nil {
		return err
	}

	fmt.Println("secret:", secret)
	fmt.Println("from:", token.Source)
	fmt.Println("audience:", cmp.Or(strings.Join(token.Claims.Audiences, ", "), "-"))
	fmt.Println("tenant:", orDash(token.Claims.TenantId))
	fmt.Println("object:", orDash(token.Claims.ObjectId))
	fmt.Println("application:", orDash(token.Claims.ApplicationId))
	fmt.Println("expires:", token.ExpiresOn)
	return nil
}

func orDash(claim wit.Option[string]) string {
	return cmp.Or(claim.SomeOr(""), "-")
}

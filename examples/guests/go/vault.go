package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/url"
	"strings"

	http "example.com/fetch-secret/bindings/imports/wasi_http_types"
	wit "go.bytecodealliance.org/pkg/wit/types"
)

// A Vault keeps secrets, and answers as Azure Key Vault does.
type Vault struct {
	scheme    http.Scheme
	authority string
}

// A StatusError is an answer of the vault other than 200.
type StatusError struct {
	Code   int
	Claims string // what it wants a token to prove, where it refused one and says so
}

func (e *StatusError) Error() string {
	return fmt.Sprintf("vault: status %d", e.Code)
}

// ParseVault takes a URL apart that has nothing behind its authority.
func ParseVault(text string) (*Vault, error) {
	var vault Vault
	name, rest, _ := strings.Cut(text, "://")
	switch name {
	case "https":
		vault.scheme = http.MakeSchemeHttps()
	case "http":
		vault.scheme = http.MakeSchemeHttp()
	default:
		return nil, fmt.Errorf("not the URL of a vault: %s", text)
	}
	vault.authority = strings.TrimSuffix(rest, "/")
	// A host and a port; a user in front would make it look like another
	// one. The rest of what an authority is, those know who will send the
	// requests.
	request := http.MakeOutgoingRequest(http.MakeFields())
	defer request.Drop()
	if strings.ContainsFunc(vault.authority, isOutOfPlace) || request.SetAuthority(wit.Some(vault.authority)).IsErr() {
		return nil, fmt.Errorf("not the URL of a vault: %s", text)
	}
	return &vault, nil
}

// Secret asks for a secret, and returns its name as the vault has it. What the
// secret is, nobody gets to see.
func (v *Vault) Secret(name string, token *Token) (string, error) {
	path := fmt.Sprintf("/secrets/%s?api-version=7.4", url.PathEscape(name))
	answer, err := get(v.scheme, v.authority, path, map[string]string{
		"authorization": token.TokenType + " " + token.Token,
		"accept":        "application/json",
	})
	if err != nil {
		return "", fmt.Errorf("vault: no answer: %w", err)
	}
	if answer.status != 200 {
		return "", &StatusError{answer.status, claimsOf(answer.challenge)}
	}

	var secret map[string]any
	if err := json.Unmarshal(answer.body, &secret); err != nil {
		return "", errors.New("vault: not a secret")
	}
	id, _ := secret["id"].(string)
	_, rest, found := strings.Cut(id, "/secrets/")
	if !found {
		return "", errors.New("vault: not a secret")
	}
	name, _, _ = strings.Cut(rest, "/")
	return name, nil
}

// claimsOf returns what is in claims="..." of a challenge. The name has no case
// (RFC 9110, section 11.2), and may be the end of another one.
func claimsOf(challenge string) string {
	const name = `claims="`
	for at := 0; at+len(name) <= len(challenge); at++ {
		goesOn := at > 0 && (challenge[at-1] == '_' || isAlphanumeric(rune(challenge[at-1])))
		if goesOn || !strings.EqualFold(challenge[at:at+len(name)], name) {
			continue
		}
		if claims, _, found := strings.Cut(challenge[at+len(name):], `"`); found {
			return claims
		}
	}
	return ""
}

func isOutOfPlace(letter rune) bool {
	return !isAlphanumeric(letter) && !strings.ContainsRune("._-:[]", letter)
}

func isAlphanumeric(letter rune) bool {
	return '0' <= letter && letter <= '9' || 'A' <= letter && letter <= 'Z' || 'a' <= letter && letter <= 'z'
}

package apitest

import (
	"os"
	"testing"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

func TestMain(m *testing.M) { os.Exit(Main(m)) }

func TestNamespacesAreApart(t *testing.T) {
	s := Start(t)
	a, b := s.Namespace(t), s.Namespace(t)
	if a == b {
		t.Fatalf("two tests share namespace %s", a)
	}
	if _, err := s.Client().CoreV1().Namespaces().Get(t.Context(), b, metav1.GetOptions{}); err != nil {
		t.Fatal(err)
	}
}

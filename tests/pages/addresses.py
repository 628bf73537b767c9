"""Addresses of pages, for tests that look at all of them."""

OF_THE_REGISTRY = ["/", "/search", "/search?search=sql", "/search?rank=..4&license=mit", "/search?base=nothing/here",
                   "/bases", "/by-hash", "/by-hash/" + "0" * 64, "/compare", "/merges",
                   "/compare?a=pages-org/sql-writer%40v1&b=pages-org/poet",
                   "/merges?base=pages-org/pages-base&adapter1=pages-org/sql-writer&adapter2=pages-org/poet",
                   "/login"]  # fmt: skip
OF_SOMEBODY = ["/settings", "/tokens", "/notifications", "/organizations/pages-org/members",
               "/new?namespace=pages-org"]  # fmt: skip
OF_ADMINISTRATORS = ["/admin", "/admin/users", "/admin/jobs", "/admin/quarantine", "/admin/audit"]
OF_WRITERS = ["/upload", "/card"]
OF_A_REPOSITORY = ["", "/v/v1", "/versions", "/commits/main", "/tree/main", "/tree/main/notes",
                   "/blob/main/README.md", "/blob/main/adapter_model.safetensors", "/weights/main",
                   "/training/main", "/lineage", "/compat"]  # fmt: skip
TWINS = {
    "/upload": False,
    "/card": False,
    "/new?namespace=pages-org": False,
    "/blob/main/README.md": False,
    "/blob/main/adapter_model.safetensors": False,
    "/tree/main/notes": False,
}

"""Who may do what: access tokens, what they grant, and what each request needs."""

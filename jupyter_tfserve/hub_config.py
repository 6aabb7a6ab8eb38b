"""What `jupyter tfserve hub-config` prints: what a JupyterHub's admin adds so that users can share predictions."""

from __future__ import annotations

SNIPPET = """\
# jupyter_tfserve: lets users share predictions of their models, and nothing else. For jupyterhub_config.py.
# Needs JupyterHub 5 or later (5.5.1 has security fixes that sharing wants).
_predict = "custom:jupyter_server:execute:jupyter_tfserve:inference"

c.JupyterHub.custom_scopes.update(
    {_predict: {"description": "Ask the models that a user serves from JupyterLab, and nothing else."}}
)

# Where your file defines the roles "user" or "server" already, add these scopes there instead.
c.JupyterHub.load_roles.extend(
    [
        # Users may share the right to predict on their own servers. read:users:name lets them name a colleague
        # (`%tfserve share NAME --with USER`); without it they share by link.
        {"name": "user", "scopes": ["self", "shares!user", f"{_predict}!user", "read:users:name"]},
        # Their servers may do it for them, from a notebook.
        {
            "name": "server",
            "scopes": [
                "users:activity!user",
                "access:servers!server",
                "shares!server",
                f"{_predict}!server",
                "read:users:name",
            ],
        },
    ]
)

# The same from the browser, in JupyterLab's sidebar.
c.Spawner.oauth_client_allowed_scopes.extend(["shares!server", f"{_predict}!server", "read:users:name"])

# Access keys work without the Hub: whoever has one may predict. They are off unless you add this to
# /etc/jupyter/jupyter_server_config.py of the users' servers (keep Spawner.disable_user_config in mind):
#     c.TFServe.allow_access_keys = True
"""

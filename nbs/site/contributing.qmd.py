"""---
title: Contributing
description: How to change a lesson, and the one command that checks everything
repo-actions: false
---"""
from rlgen._site import project_page

print(project_page('CONTRIBUTING.md'))
